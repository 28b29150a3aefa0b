// A placeholder: shows the events of the lifecycle as text.
const response = await fetch("lifecycle/events?until=stopped");
const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
for (let part = await reader.read(); !part.done; part = await reader.read()) {
  document.getElementById("state").textContent = part.value;
}
