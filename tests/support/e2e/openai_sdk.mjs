// Speaks to the Images API and to durable jobs through openai's package: node openai_sdk.mjs FOLDER URL; prints JSON.
import { createRequire } from "node:module";
const [folder, url] = process.argv.slice(2);
const { default: OpenAI, toFile } = createRequire(`${folder}/`)(folder);

const client = new OpenAI({ apiKey: "none", baseURL: `${url}/v1` });
const prompt = "a large red circle on the left, blue background";
const request = { model: "lego-tiny", prompt, size: "128x96", seed: 5, num_inference_steps: 60 };
const heard = {};

const made = await client.images.generate({ ...request, n: 2 });
heard.made = made.data.map((image) => image.b64_json);
const image = await toFile(Buffer.from(heard.made[0], "base64"), "photo.png", { type: "image/png" });
const edited = await client.images.edit({ model: "lego-tiny", image, prompt: "a green square" });
heard.edited = edited.data[0].b64_json;

const stream = await client.images.generate({ ...request, stream: true, partial_images: 2 });
heard.events = [];
for await (const event of stream) heard.events.push([event.type, event.b64_json]);

const headers = { Prefer: "respond-async" };
let job = await client.post("/images/generations", { body: { ...request, n: 2 }, headers });
while (!["completed", "failed"].includes(job.status)) {
  await new Promise((resolve) => setTimeout(resolve, 50));
  job = await client.get(`/jobs/${job.id}`);
}
heard.job = job;
const result = await client.get(`/jobs/${job.id}/result`);
heard.result = result.data.map((each) => each.b64_json);

try {
  await client.images.generate({ ...request, n: 99 });
} catch (error) {
  heard.refusal = [error.constructor.name, error.status, error.code, error.param];
}
console.log(JSON.stringify(heard));
