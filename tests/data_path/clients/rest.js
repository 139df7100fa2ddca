// Node's fetch against an engine: JSON, binary tensors, compression, events, errors. Prints one JSON object.
// node rest.js http://HOST:PORT
const zlib = require("zlib");
const root = `${process.argv[2]}/v2`;
const post = (path, body, headers = {}) => fetch(root + path, { method: "POST", body, headers });
const told = async (answer) => ({ status: answer.status, body: await answer.json() });

async function main() {
  const inputs = [{ name: "x", datatype: "FP32", shape: [1, 3], data: [1, 2, 3] }];
  const found = { live: await told(await fetch(`${root}/health/live`)), metadata: await told(await fetch(`${root}/models/marked`)) };
  found.json = await told(await post("/models/marked/infer", JSON.stringify({ id: "js", inputs }), { "content-type": "application/json" }));

  const head = Buffer.from(
    JSON.stringify({
      inputs: [{ name: "x", datatype: "FP32", shape: [1, 3], parameters: { binary_data_size: 12 } }],
      parameters: { binary_data_output: true },
    }),
  );
  const body = Buffer.concat([head, Buffer.from(new Float32Array([1, 2, 3]).buffer)]);
  const answer = await post("/models/marked/infer", body, { "inference-header-content-length": String(head.length) });
  const bytes = await answer.arrayBuffer();
  const length = Number(answer.headers.get("inference-header-content-length"));
  const tensor = bytes.slice(length);
  found.binary = { kind: answer.headers.get("content-type"), numbers: Array.from(new Float32Array(tensor)) };

  const many = { inputs: [{ name: "x", datatype: "FP32", shape: [1, 1000], data: Array(1000).fill(0.5) }] };
  const packed = zlib.gzipSync(JSON.stringify(many));
  const unpacked = await (await post("/models/echo_fp32/infer", packed, { "content-encoding": "gzip", "accept-encoding": "gzip" })).json();
  found.compressed = unpacked.outputs[0].data.length;
  found.parallel = await Promise.all([...Array(50).keys()].map(async () => (await fetch(`${root}/models/marked/ready`)).status));
  found.unknown = await told(await post("/models/nobody/infer", "{}"));
  found.invalid = await told(await post("/models/marked/infer", "{"));
  found.method = await told(await fetch(`${root}/models/marked/infer`));

  const events = await post("/models/speak/generate_stream", JSON.stringify({ PROMPT: "a", STREAM: true, REPETITION: 3 }));
  const text = await events.text();
  found.events = text.split("\n\n").filter(Boolean).map((line) => JSON.parse(line.slice("data: ".length)).n);

  const stop = new AbortController();
  const aborted = fetch(`${root}/models/gate/infer`, {
    method: "POST",
    body: JSON.stringify({ inputs: [{ name: "x", datatype: "FP32", shape: [1, 2], data: [1, 2] }] }),
    signal: stop.signal,
  });
  setTimeout(() => stop.abort(), 100);
  found.aborted = await aborted.then(() => "answered", (error) => error.name);
  console.log(JSON.stringify(found));
  process.exit(0);
}
main();
