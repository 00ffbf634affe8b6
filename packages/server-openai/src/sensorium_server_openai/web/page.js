// The page: a conversation with the model. The API key lives in `key` and nowhere else.

import { Attachments, preview } from "./attachments.js";
import { record, recordables } from "./recording.js";
import { AnswerError, check, events } from "./stream.js";

const $ = (id) => document.getElementById(id);
const attachments = new Attachments($("files"));
let key = "";
let about = null;
let messages = [];
let running = null; // the AbortController of the answer that streams

function headers() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function tell(sentence) {
  $("notice").textContent = sentence;
}

/** Shows a failure; one of keys asks for the key. */
function fail(error) {
  if (error instanceof AnswerError && error.status === 401) {
    tell(key ? "The server doesn't take this key." : "");
    $("key-form").hidden = false;
    $("key").focus();
  } else {
    tell(error instanceof TypeError ? "The server can't be reached." : error.message);
  }
}

async function connect() {
  try {
    about = await (await check(await fetch("web/about", { headers: headers() }))).json();
  } catch (error) {
    $("model").textContent = "Not connected";
    $("send").disabled = true;
    fail(error);
    return;
  }
  $("key-form").hidden = true;
  tell("");
  const context = about.max_model_len ? `, ${about.max_model_len} tokens of context` : "";
  $("model").textContent = about.model + context;
  document.title = `${about.model} · Sensorium`;
  const chats = about.task === "generate";
  $("send").disabled = !chats;
  if (!chats) tell("This model makes embeddings; it doesn't chat.");
  const kinds = about.media.map((entry) => entry.kind);
  $("attach").hidden = !kinds.length;
  $("record").replaceChildren(...recordables(about.media).map(recordButton));
  $("picker").accept = about.media.flatMap((entry) => entry.media_types).join(",");
  $("welcome").textContent = kinds.length
    ? `Drop, paste or attach files (taken here: ${kinds.join(", ")}) and ask a question.`
    : "Ask a question.";
  $("ask").focus();
}

function addFiles(files) {
  if (about && files.length) tell(attachments.add(files, about.media));
}

/** A button that begins a recording, and ends and attaches it. */
function recordButton(what) {
  const button = document.createElement("button");
  button.type = "button";
  let recording = null;
  const show = () => {
    button.textContent = recording ? "End recording" : `Record ${what.kind}`;
    button.setAttribute("aria-pressed", String(Boolean(recording)));
  };
  button.onclick = async () => {
    button.disabled = true;
    try {
      if (recording) {
        const running = recording;
        recording = null;
        addFiles([await running.stop()]);
      } else {
        recording = await record(what);
        tell("");
      }
    } catch (error) {
      recording = null;
      tell(`The browser records nothing: ${error.message || error.name}.`);
    }
    button.disabled = false;
    show();
  };
  show();
  return button;
}

/** Adds a message to the conversation on the page. */
function showMessage(role, text, files = []) {
  $("welcome").hidden = true;
  const article = document.createElement("article");
  article.className = role;
  const heading = document.createElement("h2");
  heading.textContent = role === "user" ? "You" : about.model;
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  article.append(heading);
  if (files.length) {
    const shown = document.createElement("div");
    shown.className = "shown";
    shown.append(...files.map(preview));
    article.append(shown);
  }
  article.append(paragraph);
  $("talk").append(article);
  $("talk").scrollTop = $("talk").scrollHeight;
  return { article, paragraph };
}

async function send() {
  const text = $("ask").value.trim();
  const items = attachments.items;
  if (running || !about || about.task !== "generate" || (!text && !items.length)) return;
  tell("");
  running = new AbortController();
  setBusy(true);
  const mine = messages; // a new chat begins another list
  const before = mine.length;
  const shown = [];
  try {
    const parts = await attachments.parts();
    mine.push({ role: "user", content: parts.length ? [...parts, { type: "text", text }] : text });
    const body = JSON.stringify(request(mine));
    if (body.length > about.max_body_bytes) {
      throw new Error(`The files are too large: a request may have ${about.max_body_bytes} bytes.`);
    }
    $("ask").value = "";
    attachments.clear();
    shown.push(showMessage("user", text, items.map((item) => item.file)));
    shown.push(showMessage("assistant", ""));
    await stream(body, shown[1], mine);
  } catch (error) {
    const said = shown[1] ? shown[1].paragraph.textContent : "";
    const stopped = error.name === "AbortError";
    if (stopped) tell(said || mine !== messages ? "" : "Stopped.");
    else fail(error);
    if (said) {
      mine.push({ role: "assistant", content: said });
      figures(shown[1], stopped ? "Stopped." : "Cut off by an error.");
      shown[1].article.classList.toggle("failed", !stopped);
    } else if (mine === messages) {
      takeBack(mine, before, shown, text, items);
    }
  } finally {
    if (shown[1]) shown[1].article.classList.remove("busy");
    running = null;
    setBusy(false);
  }
}

/** Puts a question that got no answer back where it was typed. */
function takeBack(list, before, shown, text, items) {
  list.length = before;
  for (const { article } of shown) article.remove();
  if (!shown.length) return; // it is there still
  if (!$("ask").value) $("ask").value = text;
  for (const item of items) attachments.show(item);
}

function request(list) {
  const system = $("system").value.trim();
  const body = {
    model: about.model,
    messages: system ? [{ role: "system", content: system }, ...list] : list,
    stream: true,
    stream_options: { include_usage: true },
  };
  if ($("temperature").value !== "") body.temperature = Number($("temperature").value);
  if ($("max-tokens").value !== "") body.max_completion_tokens = Number($("max-tokens").value);
  return body;
}

async function stream(body, answer, mine) {
  answer.article.classList.add("busy");
  const begun = performance.now();
  let first = 0;
  let usage = null;
  let reason = "";
  const response = await check(await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers() },
    body,
    signal: running.signal,
  }));
  for await (const event of events(response)) {
    usage = event.usage || usage;
    const choice = event.choices && event.choices[0];
    if (!choice) continue;
    reason = choice.finish_reason || reason;
    if (!choice.delta || !choice.delta.content) continue;
    first = first || performance.now();
    const talk = $("talk");
    const follows = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
    answer.paragraph.append(choice.delta.content);
    if (follows) talk.scrollTop = talk.scrollHeight;
  }
  const ended = performance.now();
  mine.push({ role: "assistant", content: answer.paragraph.textContent });
  figures(answer, summary(usage, first - begun, ended - first, ended - begun, first > 0));
  if (reason === "length") figures(answer, "Cut off: the answer reached its most tokens.");
  // A screen reader hears the answer once, whole, rather than piece by piece.
  $("spoken").textContent = `${about.model}: ${answer.paragraph.textContent}`;
}

function summary(usage, toFirst, streaming, whole, any) {
  const found = [];
  if (usage) found.push(`${usage.prompt_tokens} prompt tokens`, `${usage.completion_tokens} answer tokens`);
  if (any) found.push(`first after ${duration(toFirst)}`);
  found.push(`${duration(whole)} in all`);
  if (usage && usage.completion_tokens > 1 && streaming > 0) {
    found.push(`${((usage.completion_tokens - 1) / streaming * 1000).toFixed(1)} tokens/s`);
  }
  return found.join(" · ");
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function figures(answer, text) {
  if (!answer) return;
  const line = document.createElement("div");
  line.className = "figures";
  line.textContent = text;
  answer.article.append(line);
  $("talk").scrollTop = $("talk").scrollHeight;
}

function setBusy(busy) {
  $("stop").disabled = !busy;
  $("send").disabled = busy;
  $("talk").setAttribute("aria-busy", String(busy));
  if (busy) $("spoken").textContent = "The model answers.";
  else $("ask").focus();
}

function stop() {
  if (running) running.abort();
}

function fresh() {
  stop();
  messages = [];
  $("talk").replaceChildren($("welcome"));
  $("welcome").hidden = false;
  tell("");
  $("ask").focus();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  $("key").value = "";
  connect();
});
$("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("ask").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
$("stop").addEventListener("click", stop);
$("fresh").addEventListener("click", fresh);
$("attach").addEventListener("click", () => $("picker").click());
$("picker").addEventListener("change", () => {
  addFiles([...$("picker").files]);
  $("picker").value = "";
});
document.addEventListener("paste", (event) => addFiles([...event.clipboardData.files]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("ask-form").classList.add("over");
});
document.addEventListener("dragleave", () => $("ask-form").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("ask-form").classList.remove("over");
  addFiles([...event.dataTransfer.files]);
});

connect();
