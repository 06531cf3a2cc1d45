// Starts the page with this server's first workflow. The frontend's own, which it loads where a
// browser has no workflow yet, needs nodes that only ComfyUI has.

const defaultGraph = globalThis.comfyAPI?.defaultGraph?.defaultGraph;
const answer = await fetch(new URL("../start_workflow", import.meta.url));
if (defaultGraph && answer.ok) {
  const workflow = await answer.json();
  for (const key of Object.keys(defaultGraph)) delete defaultGraph[key];
  Object.assign(defaultGraph, workflow);
}
