// Shows the paths of openapi.json and sends requests to them. Everything is put in as text, never as HTML.
"use strict";

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text;
  parent.append(made);
  return made;
}

function headers(body) {
  const key = document.getElementById("key").value.trim();
  return { ...(body ? { "Content-Type": "application/json" } : {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function addRequest(section, path, method, operation) {
  const content = operation.requestBody?.content["application/json"];
  let body;
  if (content) {
    const choice = element("select", "", section);
    for (const [name, example] of Object.entries(content.examples)) element("option", example.summary, choice).value = name;
    body = element("textarea", "", section);
    body.setAttribute("aria-label", "Body");
    choice.setAttribute("aria-label", "Example");
    choice.onchange = () => { body.value = JSON.stringify(content.examples[choice.value].value, null, 2); };
    choice.onchange();
  }
  const send = element("button", "Send", section);
  const answer = element("pre", "", section);
  answer.hidden = true;
  send.onclick = async () => {
    answer.hidden = false;
    answer.textContent = "…";
    try {
      const response = await fetch(path.slice(1), { method: method.toUpperCase(), headers: headers(body), body: body?.value });
      const text = await response.text();
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it came */ }
      answer.textContent = `${response.status} ${response.statusText}\n${shown}`;
    } catch (error) {
      answer.textContent = String(error);
    }
  };
}

function addFields(section, schema) {
  const table = element("table", "", section);
  for (const [name, field] of Object.entries(schema?.properties ?? {})) {
    const row = element("tr", "", table);
    element("td", name, row);
    element("td", field.description ?? "", row);
  }
}

async function load() {
  const response = await fetch("openapi.json");
  const api = await response.json();
  document.getElementById("about").textContent = `${api.info.description} Version ${api.info.version}.`;
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const section = element("section", "", document.getElementById("paths"));
      element("h2", `${method.toUpperCase()} ${path}`, section);
      element("p", operation.description ?? "", section);
      addFields(section, operation.requestBody?.content["application/json"].schema);
      addRequest(section, path, method, operation);
    }
  }
}

load();
