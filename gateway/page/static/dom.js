/** Small functions for elements. Text from a server only ever becomes a text node. */

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Return a copy of the one element in a `<template>`. */
export function fromTemplate(id) {
  return byId(id).content.firstElementChild.cloneNode(true);
}

export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svgElement(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Set the text of an element. An unchanged text stays untouched, so that a screen reader does not read it again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Show a state in a `.state` element: its tone selects the colour and the shape of the mark, its label is the text. */
export function showState(node, { tone, label }) {
  node.dataset.tone = tone;
  setText(node.querySelector(".label"), label);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
