// Unpacks what the page carries, and starts it. Everything is in the page: it opens from a disk as from a server.
"use strict";

globalThis.ksim = (async () => {
  const TYPES = {
    float64: Float64Array, float32: Float32Array, int32: Int32Array, uint32: Uint32Array, uint16: Uint16Array,
    uint8: Uint8Array, int8: Int8Array,
  };

  const fromBase64 = (text) => {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return bytes;
  };

  const unpack = async (script) => {
    const packed = fromBase64(script.textContent);
    script.remove(); // megabytes of text
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  const asJson = (bytes) =>
    JSON.parse(new TextDecoder().decode(bytes), (_, value) => {
      if (value === null || typeof value !== "object" || !("base64" in value)) return value;
      const type = TYPES[value.dtype];
      if (!type) throw new Error(`the page carries an array of ${value.dtype}`);
      return new type(fromBase64(value.base64).buffer);
    });

  try {
    if (!("DecompressionStream" in globalThis)) throw new Error("this browser is too old: it wants one of 2023 or later");
    const imports = {};
    for (const script of document.querySelectorAll("script[data-module]")) {
      const name = script.dataset.module;
      const source = script.type === "application/gzip" ? await unpack(script) : script.textContent;
      const parts = [source, `\n//# sourceURL=${name}\n`];
      imports[name] = URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
    }
    const map = document.createElement("script");
    map.type = "importmap";
    map.textContent = JSON.stringify({ imports });
    document.head.append(map);
    const files = {};
    for (const script of document.querySelectorAll("script[data-file]")) {
      const name = script.dataset.file;
      const bytes = await unpack(script);
      files[name] = name.endsWith(".json") ? asJson(bytes) : bytes;
    }
    const { start } = await import("ksim/main.js");
    const page = await start(files);
    document.body.dataset.state = "ready";
    return page;
  } catch (error) {
    document.body.dataset.state = "failed";
    document.getElementById("status").textContent = `This page cannot start: ${error.message ?? error}`;
    throw error;
  }
})();
