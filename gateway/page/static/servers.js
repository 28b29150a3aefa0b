/** Buttons that suspend, kill and restart the private servers of `gateway dev`. No other gateway has these paths. */

import { element, setText } from "./dom.js";
import { getJson } from "./requests.js";

const PATH = "dev/servers";

/** Show on the plates the buttons that fit the status of each server. */
export async function showServers(plates) {
  const { items } = await getJson(PATH);
  for (const server of items) {
    const controls = plates.controlsOf(server.entry);
    if (controls !== null) showServer(controls, server);
  }
}

function showServer(controls, server, problem = "") {
  const shown = JSON.stringify([server, problem]);
  if (controls.dataset.shown === shown) return; // a button may have the focus
  controls.dataset.shown = shown;
  const buttons = server.actions.map((action) => {
    const label = `${action} ${server.name}`;
    const button = element("button", { type: "button", "aria-label": label, title: label }, action);
    button.addEventListener("click", () => act(controls, server, action));
    return button;
  });
  const remark = element("span", { class: problem ? "problem" : "muted", role: "status" });
  controls.replaceChildren(...buttons, remark);
  controls.hidden = false;
  setText(remark, problem || (server.status === "running" ? "" : server.status));
}

/** Perform the action. Its button had the focus, so the next first button gets it. */
async function act(controls, server, action) {
  delete controls.dataset.shown;
  for (const button of controls.querySelectorAll("button")) button.disabled = true;
  controls.lastChild.textContent = `${action} …`;
  try {
    showServer(controls, await getJson(`${PATH}/${server.name}/${action}`, { method: "POST" }));
  } catch (problem) {
    showServer(controls, server, problem.message);
  }
  controls.querySelector("button")?.focus();
}
