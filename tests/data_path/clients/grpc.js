// @grpc/grpc-js against an engine: unary, stream, deadline, cancel, errors. Prints one JSON object.
// node grpc.js HOST:PORT DESCRIPTORS   (a FileDescriptorSet of GRPCInferenceService)
const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, descriptors] = process.argv.slice(2);
const packed = loader.loadFileDescriptorSetFromBuffer(fs.readFileSync(descriptors), { keepCase: true, longs: Number, oneofs: true });
const { inference } = grpc.loadPackageDefinition(packed);
const client = new inference.GRPCInferenceService(address, grpc.credentials.createInsecure());
const call = (method, request, options = {}) =>
  new Promise((done) => client[method](request, new grpc.Metadata(), options, (error, answer) => done(error ? { code: error.code, details: error.details } : answer)));
const floats = (...values) => Buffer.from(new Float32Array(values).buffer);
const ask = (model, ...values) => ({
  model_name: model,
  id: "js",
  inputs: [{ name: "x", datatype: "FP32", shape: [1, values.length] }],
  raw_input_contents: [floats(...values)],
});
const numbers = (raw) => Array.from(new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length)));

async function main() {
  const found = { live: (await call("ServerLive", {})).live, metadata: await call("ModelMetadata", { name: "marked" }) };
  const answer = await call("ModelInfer", ask("marked", 1, 2, 3));
  found.unary = { id: answer.id, model: answer.model_name, version: answer.model_version, numbers: numbers(answer.raw_output_contents[0]) };
  const typed = ask("marked", 4, 5, 6);
  typed.raw_input_contents = [];
  typed.inputs[0].contents = { fp32_contents: [4, 5, 6] };
  found.typed = numbers((await call("ModelInfer", typed)).raw_output_contents[0]);
  found.parallel = (await Promise.all([...Array(50).keys()].map((n) => call("ModelInfer", ask("marked", n, n, n))))).map((a) => numbers(a.raw_output_contents[0])[0]);
  const large = ask("echo_fp32");
  large.inputs[0].shape = [1, 300000];
  large.raw_input_contents = [Buffer.alloc(1200000)];
  found.large = (await call("ModelInfer", large)).raw_output_contents[0].length;
  found.unknown = await call("ModelInfer", ask("nobody", 1));
  found.invalid = await call("ModelInfer", ask("marked", 1));
  found.deadline = await call("ModelInfer", ask("gate", 1, 2), { deadline: Date.now() + 200 });
  found.cancelled = await new Promise((done) => {
    const pending = client.ModelInfer(ask("gate", 1, 2), (error) => done(error.code));
    setImmediate(() => pending.cancel());
  });
  found.stream = await new Promise((done, fail) => {
    const stream = client.ModelStreamInfer();
    const got = [];
    stream.on("data", (one) => got.push(one.error_message || numbers(one.infer_response.raw_output_contents[0])[0]));
    stream.on("error", fail);
    stream.on("end", () => done(got));
    for (const n of [1, 2, -1, 3]) stream.write(ask("marked", n, n, n));
    stream.end();
  });
  found.given_up = await new Promise((done) => {
    const stream = client.ModelStreamInfer();
    stream.on("data", () => stream.cancel());
    stream.on("error", (error) => done(error.code));
    stream.write(ask("marked", 1, 1, 1));
  });
  client.close();
  console.log(JSON.stringify(found));
}
main();
