/** The search for a place by a prefix of its name. */

import { byId, element, setText } from "./dom.js";
import { formatCount } from "./format.js";
import { getJson } from "./requests.js";

const MAX_RESULTS = 6;
const TYPING_PAUSE_MS = 150;

/** Call `onChosen` with the place that the user chooses. */
export function setUpSearch(onChosen) {
  const field = byId("search-field");
  let timer;
  let latest = 0;

  async function search() {
    const number = ++latest;
    const query = field.value.trim();
    const places = query ? await findPlaces(query) : [];
    if (number !== latest) return; // a later search has begun
    byId("search-results").replaceChildren(...places.map((place) => element("li", {}, button(place))));
    if (query && places.length === 0 && !byId("search-problem").textContent) {
      setText(byId("search-problem"), "No place has a name that begins so.");
    }
  }

  function button(place) {
    const facts = `${place.country_code}, ${formatCount(place.population)} people`;
    const detail = element("span", { class: "muted" }, facts);
    const it = element("button", { type: "button" }, `${place.name} `, detail);
    it.addEventListener("click", () => {
      latest++;
      field.value = "";
      byId("search-results").replaceChildren();
      onChosen(place);
    });
    return it;
  }

  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(search, TYPING_PAUSE_MS);
  });
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("search-results").querySelector("button")?.click(); // Enter chooses the first place
  });
}

async function findPlaces(query) {
  setText(byId("search-problem"), "");
  try {
    const parameters = new URLSearchParams({ q: query, limit: MAX_RESULTS });
    return (await getJson(`v1/places?${parameters}`)).items;
  } catch (problem) {
    setText(byId("search-problem"), problem.message);
    return [];
  }
}
