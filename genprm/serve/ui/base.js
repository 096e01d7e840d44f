"use strict";
// Shared by the scripts of this page and of a run's page. Everything shown goes through `make`: text is never
// interpreted as HTML.
const byId = (id) => document.getElementById(id);
const make = (tag, className, ...children) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
};
const number = (x) => (x === null || x === undefined ? "–" : x.toFixed(3));
const firstError = (index) =>
  index === null || index === undefined ? "undecided" : index < 0 ? "no error" : `error at step ${index + 1}`;
const outcome = (index) => (index === null || index === undefined ? "open" : index < 0 ? "right" : "wrong");

const ask = async (path, options = {}) => {
  const key = sessionStorage.getItem("genprm-key");
  const headers = { ...(options.headers ?? {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) byId("key-field").hidden = false;
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw new Error(body?.error?.message ?? `the service answered ${response.status}`);
  }
  return response;
};

// One judged step: its text, score and chains.
const stepNode = (step, place, limit, open = false, isFirst = false) => {
  const kind = stepClass(step.score, limit);
  const badge = make("span", `badge ${kind}`, step.score === null ? "no score" : `${kind} ${number(step.score)}`);
  const node = make("div", isFirst ? "step first" : "step",
    make("div", "head", make("span", "number", String(place + 1)), rich(make("div", "text"), step.step ?? ""), badge));
  node.setAttribute("role", "group");
  node.setAttribute("aria-label", `Step ${place + 1}: ${badge.textContent}`);
  if (step.reason) node.append(make("p", "notice", step.reason));
  if (step.chains?.length) node.append(folded("How it was judged", (parent) => votes(parent, step.chains, limit), open));
  return node;
};
