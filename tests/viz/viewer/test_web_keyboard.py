"""Keys of the robot on a page of viser's with one element of each kind, and nothing to simulate."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import viser
from support import chromium

from ksim.viz.viewer.web.keyboard import keep_keys

pytestmark = [
    pytest.mark.slow,
    pytest.mark.screen,
    pytest.mark.skipif(chromium.executable() is None, reason="apt-get install chromium"),
]
KEYS = {  # as viser names them: key, code, keyCode
    "arrowleft": ("ArrowLeft", "ArrowLeft", 37),
    "arrowup": ("ArrowUp", "ArrowUp", 38),
    "P": ("p", "KeyP", 80),
    "Q": ("q", "KeyQ", 81),
    "space": (" ", "Space", 32),
}
TAB = "document.querySelector('[role=tab][aria-selected=true]').innerText"


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """The page, its elements, and the keys that have arrived."""
    server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    gui, arrived = server.gui, []
    for key in KEYS:
        gui.add_command(key, hotkey=key).on_trigger(lambda _, key=key: arrived.append(key))
    tabs = gui.add_tab_group()
    with tabs.add_tab("Drive"):
        elements = {
            "button": gui.add_button("Pause"),
            "slider": gui.add_slider("speed", 0.0, 10.0, 0.1, 5.0),
            "list": gui.add_dropdown("policy", ("one", "two")),
            "box": gui.add_checkbox("forces", False),
            "number": gui.add_number("env", 1),
        }
    with tabs.add_tab("Look"):
        gui.add_markdown("nothing")
    keep_keys(server, KEYS)
    with chromium.Browser(tmp_path_factory.mktemp("profile"), webgl=True) as browser:
        page = browser.open(f"http://127.0.0.1:{server.get_port()}")
        page.wait_until("document.body.innerText.includes('Pause')")
        page.wait_until("document.getAnimations().length === 0")
        yield SimpleNamespace(page=page, server=server, arrived=arrived, **elements)
        assert page.errors() == []
    server.stop()


def all_keys_arrive(shown: SimpleNamespace) -> None:
    """Each once, and none does anything else."""
    shown.arrived.clear()
    values = [shown.slider.value, shown.list.value, shown.box.value, shown.number.value]
    tab = shown.page.evaluate(TAB)
    for count, key in enumerate(KEYS, 1):
        shown.page.press(*KEYS[key])
        chromium.until(lambda count=count: len(shown.arrived) == count)
    assert shown.arrived == list(KEYS)
    assert [shown.slider.value, shown.list.value, shown.box.value, shown.number.value] == values
    assert shown.page.evaluate(TAB) == tab


def test_a_tab_that_was_clicked_does_not_take_the_arrows(shown):
    for tab in ("Look", "Drive"):
        shown.page.click(shown.page.place(tab))
        shown.page.wait_until(f"{TAB} === '{tab}'")
        all_keys_arrive(shown)


def test_a_button_that_was_clicked_is_not_pressed_by_space(shown):
    pressed = []
    shown.button.on_click(lambda _: pressed.append(True))
    shown.page.click(shown.page.place("Pause"))
    chromium.until(lambda: pressed)
    all_keys_arrive(shown)
    assert len(pressed) == 1


def test_a_slider_that_was_moved_stays_at_arrows(shown):
    box = "document.querySelector('[role=slider]').getBoundingClientRect()"
    x, y = shown.page.evaluate(f"[{box}.x + {box}.width / 2, {box}.y + {box}.height / 2]")
    shown.page.drag((x, y), (x + 30, y))
    chromium.until(lambda: shown.slider.value > 5.5)
    all_keys_arrive(shown)


def test_a_box_and_a_list_that_were_clicked_let_keys_through(shown):
    box = shown.page.evaluate("[...document.querySelectorAll('input[type=checkbox]')]"
                              ".map(e => e.getBoundingClientRect()).find(box => box.width > 0).x")  # fmt: skip
    shown.page.click((box + 5, shown.page.place("forces")[1]))
    chromium.until(lambda: shown.box.value)
    all_keys_arrive(shown)
    x, y = shown.page.place("policy")
    shown.page.click((x + 150, y))
    shown.page.click(shown.page.place("two", "[role=option]"))
    chromium.until(lambda: shown.list.value == "two")
    all_keys_arrive(shown)


def test_what_is_typed_is_typed_until_enter(shown):
    x, y = shown.page.place("env")
    shown.page.click((x + 150, y))
    shown.page.wait_until("document.activeElement.tagName === 'INPUT'")
    shown.arrived.clear()
    shown.page.press(*KEYS["P"])
    shown.page.press("Enter", "Enter", 13)
    shown.page.wait_until("document.activeElement === document.body")
    assert not shown.arrived
    all_keys_arrive(shown)


def test_the_camera_stays(shown):
    """viser flies it with arrows, Q, E and S, for as long as they are held."""
    chromium.until(shown.server.get_clients)
    (client,) = shown.server.get_clients().values()
    before = np.array(client.camera.position)
    for key in ("arrowup", "arrowleft", "Q"):
        shown.page.press(*KEYS[key], hold_s=0.5)
    all_keys_arrive(shown)
    np.testing.assert_allclose(client.camera.position, before, atol=1e-6)
