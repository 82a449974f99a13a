// Runs a workflow through @saintno/comfyui-sdk: node comfyui_sdk.mjs MODULE URL GRAPH; prints what it heard as JSON.
const [module, url, graph] = process.argv.slice(2);
const { CallWrapper, ComfyApi, PromptBuilder } = await import(module);

const api = await new ComfyApi(url).init(1, 1000).waitForReady();
const heard = { checkpoints: await api.getCheckpoints(), progress: 0, pending: false };
const workflow = new PromptBuilder(JSON.parse(graph), ["seed"], ["images"])
  .setInputNode("seed", "3.inputs.seed")
  .setOutputNode("images", "9")
  .input("seed", 11);
const upload = await api.uploadImage(new Uint8Array(Buffer.from(process.env.IMAGE, "base64")), "sdk.png");
heard.upload = upload.info;
heard.result = await new CallWrapper(api, workflow)
  .onPending(() => { heard.pending = true; })
  .onProgress((info) => { heard.progress = Math.max(heard.progress, info.value); })
  .onFailed((error) => { heard.error = String(error); })
  .run();
const blob = await api.getImage(heard.result.images.images[0]);
heard.bytes = (await blob.arrayBuffer()).byteLength;
console.log(JSON.stringify(heard));
process.exit(0);
