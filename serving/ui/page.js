"use strict";
// Tries the service that serves this page. No library, no other host; what the service answers is shown as text, never as markup.

const MOST_ROWS = 50;
const CANDIDATES = 5;

const at = (id) => document.getElementById(id);
let models = [];
let image = null;

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (at("token").value) headers.set("authorization", `Bearer ${at("token").value}`);
  const began = performance.now();
  const answer = await fetch(path, { ...options, headers });
  const content = answer.status === 204 ? null : await answer.json();
  const took = performance.now() - began;
  if (!answer.ok) throw new Error(content?.error?.message ?? `the service answered ${answer.status}`);
  return { content, took };
}

function say(id, text, isBad = false) {
  at(id).textContent = text;
  at(id).classList.toggle("bad", isBad);
}

async function look() {
  try {
    models = (await ask("v1/models")).content.models;
    at("about").textContent = models.map((model) => `${model.name} ${model.version} (${model.family}, ${model.variant})`).join(" · ") || "No model is loaded.";
  } catch (error) {
    models = [];
    at("about").textContent = `The models cannot be listed: ${error.message}`;
    at("access").open = true;
  }
  offer("clip", "classify");
  offer("ranking", "rank");
  if (!at("classify").hidden) await listSets();
  if (!at("rank").hidden) makeRequest();
}

function offer(family, section) {
  const names = models.filter((model) => model.family === family).map((model) => model.name);
  at(section).hidden = names.length === 0;
  at(`${section}-model`).replaceChildren(...names.map((name) => new Option(name)));
}

async function listSets() {
  try {
    const sets = (await ask("v1/label-sets")).content.label_sets;
    const options = sets.map((set) => new Option(`${set.name} (${set.count} labels)`, set.name));
    at("label-set").replaceChildren(new Option("none: the labels above", ""), ...options);
  } catch (error) {
    say("classify-status", `The label sets cannot be listed: ${error.message}`, true);
  }
}

function choose(file) {
  if (!file) return;
  image = file;
  const preview = at("preview");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = file.name ? `The chosen image, ${file.name}` : "The chosen image";
  preview.hidden = false;
  say("classify-status", `${file.name || "An image"} is chosen.`);
}

async function classify(event) {
  event.preventDefault();
  at("classify-result").hidden = true;
  if (!image) return say("classify-status", "Choose an image first.", true);
  const request = {};
  if (at("label-set").value) request.label_set = at("label-set").value;
  else request.labels = [...new Set(at("labels").value.split("\n").map((line) => line.trim()).filter(Boolean))];
  if (at("templates").value) request.templates = at("templates").value;
  if (at("multi").checked) request.multi_label = true;
  if (at("none").checked) request.none_of_these = true;
  const form = new FormData();
  form.append("image", image);
  form.append("request", new Blob([JSON.stringify(request)], { type: "application/json" }));
  say("classify-status", "Classifying …");
  try {
    const path = `v1/models/${encodeURIComponent(at("classify-model").value)}/classify`;
    const { content, took } = await ask(path, { method: "POST", body: form });
    const found = content.images[0];
    const rows = found.labels.map((label) => [label.label, label.probability]);
    if (found.none_of_these !== undefined) rows.push(["none of these", found.none_of_these]);
    show("classify", rows, content, took);
    say("classify-status", found.best === null ? "None of these." : `Best: ${found.best}`);
  } catch (error) {
    say("classify-status", error.message, true);
  }
}

async function rank(event) {
  event.preventDefault();
  at("rank-result").hidden = true;
  say("rank-status", "Ranking …");
  try {
    const path = `v1/models/${encodeURIComponent(at("rank-model").value)}/rank`;
    const body = at("request").value;
    const { content, took } = await ask(path, { method: "POST", body, headers: { "content-type": "application/json" } });
    show("rank", content.ranking.map((candidate) => [String(candidate.id), candidate.probability]), content, took);
    say("rank-status", `${content.ranking.length} candidates are ranked.`);
  } catch (error) {
    say("rank-status", error.message, true);
  }
}

function show(section, rows, answer, took) {
  const table = at(`${section}-result`);
  const more = rows.length > MOST_ROWS ? `, the first ${MOST_ROWS} of ${rows.length}` : "";
  table.caption.textContent = `${answer.model.name} ${answer.model.version}, ${took.toFixed(1)} ms there and back${more} · request ${answer.request_id}`;
  table.tBodies[0].replaceChildren(...rows.slice(0, MOST_ROWS).map(([name, probability]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    const number = row.insertCell();
    number.className = "number";
    number.textContent = `${(100 * probability).toFixed(1)} %`;
    const bar = document.createElement("meter");
    bar.value = probability;
    bar.setAttribute("aria-label", `${name}: ${number.textContent}`);
    row.insertCell().append(bar);
    row.prepend(head);
    return row;
  }));
  table.hidden = false;
}

// A value for one field of a feature specification, such as its kind takes; `turn` makes candidates differ.
function sample(field, turn) {
  if (field.kind === "numeric") {
    const low = field.min ?? 0;
    const value = low + (turn + 1) * (field.scale > 1 ? field.scale : 1);
    return Math.min(value, field.max ?? value);
  }
  const value = field.dtype === "int64" ? turn + 1 : `${field.name}-${turn + 1}`.slice(0, field.max_length ?? 64);
  return field.max_values > 1 ? [value] : value;
}

function makeRequest() {
  const model = models.find((each) => each.name === at("rank-model").value);
  const part = (name, turn) => Object.fromEntries(
    model.features.fields.filter((field) => field.part === name).map((field) => [field.name, sample(field, turn)]),
  );
  const candidates = [];
  for (let turn = 0; turn < Math.min(CANDIDATES, model.max_candidates); turn += 1) candidates.push({ id: `candidate-${turn + 1}`, ...part("candidate", turn) });
  at("request").value = JSON.stringify({ user: part("user", 0), context: part("context", 0), candidates }, null, 2);
}

at("image").addEventListener("change", () => choose(at("image").files[0]));
at("drop").addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
at("drop").addEventListener("dragleave", () => at("drop").classList.remove("over"));
at("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  choose(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => choose([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
at("classify-form").addEventListener("submit", classify);
at("rank-form").addEventListener("submit", rank);
at("rank-model").addEventListener("change", makeRequest);
at("reload").addEventListener("click", look);
look();
