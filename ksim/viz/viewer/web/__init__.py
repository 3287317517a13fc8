"""The viewer in a browser, on viser (`pip install 'ksim[web]'`)."""
