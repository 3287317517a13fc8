// The metadata of an ONNX file, which onnxruntime-web does not hand out. An ONNX file is a protocol buffer:
// https://protobuf.dev/programming-guides/encoding/ and https://github.com/onnx/onnx/blob/main/onnx/onnx.proto

const METADATA_PROPS = 14; // of ModelProto; its elements have a key, 1, and a value, 2

/** The metadata of an ONNX file, each value parsed as JSON. */
export function metadataOf(bytes) {
  const found = {};
  const decoder = new TextDecoder();
  for (const [number, entry] of fields(bytes)) {
    if (number !== METADATA_PROPS) continue;
    const { 1: key, 2: value } = Object.fromEntries(fields(entry));
    found[decoder.decode(key)] = JSON.parse(decoder.decode(value));
  }
  return found;
}

/** Number and content of each field of a message that has a length; the others are passed over. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const [number, type] = [Math.floor(tag / 8), tag % 8];
    if (type === 0) varint();
    else if (type === 1) at += 8;
    else if (type === 5) at += 4;
    else if (type === 2) {
      const length = varint();
      yield [number, bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error(`policy.onnx is not a protocol buffer: wire type ${type}`);
  }
}
