"use strict";
// Shows /api/status and /api/history. All text goes in as text, never as markup.

const VISIBLE_MS = 2000;
const HIDDEN_MS = 15000;
const PATIENCE_MS = 10000;
const ORDER = ["session", "well_known", "session_off", "query", "question_ignored", "client_ignored", "type_ignored",
  "empty_question", "invalid_name", "dns_parse_error", "client_address_invalid", "undecodable", "pending"];
const FATES = {
  session: "session row", well_known: "well-known name, counted", session_off: "not kept: session files are off",
  query: "query, not used", question_ignored: "ignored name", client_ignored: "ignored client",
  type_ignored: "ignored message type", empty_question: "no question", invalid_name: "invalid name",
  dns_parse_error: "DNS message cannot be parsed", client_address_invalid: "client address invalid",
  undecodable: "no dnstap message", pending: "lost: no fate",
};
const STATES = { ok: "All is well.", degraded: "Worth a look:", failing: "Something is wrong:" };

let step = 60;
let lastGood = 0;
let timer = 0;

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  for (const child of children) if (child !== null) made.append(child);
  return made;
}

function fill(id, ...children) {
  byId(id).replaceChildren(...children);
}

function number(value, digits = 0) {
  if (value === null || value === undefined) return "not known";
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

function rate(value) {
  return number(value, value < 10 ? 1 : 0);
}

function bytes(value) {
  if (value === null || value === undefined) return "not known";
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return number(value, unit ? 1 : 0) + " " + units[unit];
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "not known";
  if (seconds < 0) return duration(-seconds) + " ago";
  if (seconds < 1) return number(seconds * 1000) + " ms";
  if (seconds < 120) return number(seconds, seconds < 10 ? 1 : 0) + " s";
  if (seconds < 7200) return number(seconds / 60) + " min";
  if (seconds < 172800) return number(seconds / 3600, 1) + " h";
  return number(seconds / 86400, 1) + " days";
}

function clock(seconds) {
  return seconds ? new Date(seconds * 1000).toLocaleTimeString("en-GB") : "never";
}

function day(seconds) {
  return new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC";
}

function facts(pairs) {
  const list = element("dl");
  for (const [name, value, kind] of pairs) {
    list.append(element("dt", {}, name), element("dd", kind ? { class: kind } : {}, value));
  }
  return list;
}

// Columns: [title, value of a row, is it a number]
function table(caption, rows, columns) {
  const head = element("tr");
  for (const [title, , numeric] of columns) head.append(element("th", { scope: "col", class: numeric ? "n" : "" }, title));
  const body = element("tbody");
  for (const row of rows) {
    const line = element("tr");
    columns.forEach(([, value, numeric], index) => {
      const name = index ? "td" : "th";
      const cell = element(name, { class: numeric ? "n" : "" }, value(row));
      if (!index) cell.setAttribute("scope", "row");
      line.append(cell);
    });
    body.append(line);
  }
  return element("table", {}, element("caption", { class: "hidden" }, caption), element("thead", {}, head), body);
}

function meter(value, most, text, high = 0.8) {
  const shown = element("span", { class: "meter" });
  if (most) {
    shown.append(element("meter", { min: 0, max: most, value: Math.min(value, most), high: most * high,
      optimum: 0, "aria-label": text }), " ");
  }
  shown.append(text);
  return shown;
}

function none(text) {
  return element("p", { class: "faint" }, text);
}

function trouble(error) {
  return error ? `${clock(error.time)}: ${error.text}` : "none";
}

function showState(status) {
  const health = status.health;
  byId("state").className = health.state;
  const text = STATES[health.state];
  if (byId("summary").textContent !== text) byId("summary").textContent = text;
  fill("findings", ...health.findings.map((finding) => element("li", {},
    element("span", { class: finding.severity }, finding.severity), " ", finding.what, " ", finding.do,
    element("span", { class: "faint" }, ` (since ${clock(finding.since)}, ${finding.code})`))));
  document.title = (health.state === "ok" ? "" : health.state + ": ") + "EDM " + status.program.host;
}

function showFrames(frames) {
  byId("rate").textContent = `${rate(frames.per_second)} frames per second, ${bytes(frames.bytes_per_second)}/s; ` +
    `${number(frames.total)} since the start, ${number(frames.lost)} lost`;
  byId("rate").className = frames.lost ? "error" : "";
  const used = ORDER.filter((fate) => frames.fates[fate]);
  byId("fates").tBodies[0].replaceChildren(...used.map((fate) => element("tr", {},
    element("th", { scope: "row" }, element("span", { class: "swatch " + colour(fate) }), FATES[fate] || fate),
    element("td", { class: "n" }, rate(frames.per_second_by_fate[fate] || 0)),
    element("td", { class: "n" }, number(frames.fates[fate])))));
  byId("fates").hidden = !used.length;
}

function colour(fate) {
  return "c" + Math.max(0, ORDER.indexOf(fate));
}

function showChart(history) {
  const names = ORDER.filter((name) => history.series[name]);
  const count = history.count;
  const sums = new Array(count).fill(0);
  const layers = names.map((name) => {
    const low = sums.slice();
    history.series[name].forEach((value, i) => { sums[i] += value / history.step; });
    return { name, low, high: sums.slice() };
  });
  const top = Math.max(1, ...sums);
  const x = (i) => (i * 720 / Math.max(1, count - 1)).toFixed(1);
  const y = (value) => (216 - 208 * value / top).toFixed(1);
  const svg = "http://www.w3.org/2000/svg";
  byId("chart").replaceChildren(...layers.map((layer) => {
    const path = document.createElementNS(svg, "path");
    const up = layer.high.map((value, i) => `${x(i)},${y(value)}`);
    const down = layer.low.map((value, i) => `${x(i)},${y(value)}`).reverse();
    path.setAttribute("d", `M${up.join("L")}L${down.join("L")}Z`);
    path.setAttribute("class", colour(layer.name));
    const title = document.createElementNS(svg, "title");
    title.textContent = FATES[layer.name] || layer.name;
    path.append(title);
    return path;
  }));
  const mean = sums.reduce((total, value) => total + value, 0) / count;
  byId("chart-text").textContent = `Frames per second over the last ${step === 60 ? "hour" : "five minutes"}: ` +
    `${rate(mean)} on average, ${rate(top)} at most, ${rate(sums[count - 1])} at the end.`;
  fill("axis", element("span", {}, clock(history.end - count * history.step)),
    element("span", {}, `highest: ${rate(Math.max(...sums))} per second`), element("span", {}, clock(history.end)));
}

function showInput(input) {
  const rows = input.senders;
  const parts = [element("p", { class: "faint" }, `${input.listening ? "Listening" : "Not listening"} on ${input.address}`)];
  parts.push(rows.length ? table("Senders", rows, [
    ["Identity", (s) => s.identity || s.peer],
    ["Peer", (s) => s.peer],
    ["per second", (s) => rate(s.frames_per_second), true],
    ["frames", (s) => number(s.frames), true],
    ["last", (s) => clock(s.last_frame), true],
    ["had to wait", (s) => duration(s.blocked_seconds), true],
  ]) : none("No sender is connected."));
  if (input.senders_beyond) parts.push(none(`And ${number(input.senders_beyond)} more.`));
  const types = Object.entries(input.message_types);
  if (types.length) parts.push(facts(types.map(([type, count]) => [type, number(count)])));
  for (const server of input.dropped_by_senders) {
    parts.push(facts([[`dropped by ${server.sender}`, server.dropped === null ? server.text : number(server.dropped)]]));
  }
  fill("senders", ...parts);
}

function showWork(status) {
  fill("workers", table("Workers", status.workers, [
    ["Worker", (w) => number(w.worker)],
    ["busy", (w) => meter(w.busy_share, 1, number(100 * w.busy_share) + " %", 0.95)],
    ["per second", (w) => rate(w.frames_per_second), true],
  ]));
  fill("stages", table("Stages", status.stages, [
    ["Stage", (s) => s.stage],
    ["share", (s) => meter(s.share, 1, number(100 * s.share) + " %", 1)],
    ["processor", (s) => duration(s.cpu_seconds), true],
  ]));
  fill("queues", table("Queues", status.queues, [
    ["Queue", (q) => q.queue],
    ["waiting", (q) => meter(q.depth, q.bound, q.unit === "bytes" ? bytes(q.depth) : `${number(q.depth)} ${q.unit}`)],
    ["at most", (q) => (q.bound === null ? "no bound" : q.unit === "bytes" ? bytes(q.bound) : number(q.bound)), true],
  ]));
}

function showOutput(status) {
  const { novelty, events, uploads } = status;
  fill("novelty", facts([
    ["new per second", rate(novelty.new_per_second)], ["new since the start", number(novelty.new_total)],
    ["names remembered", number(novelty.seen_names)], ["at most", number(novelty.bound)],
    ["discarded, queue full", number(novelty.discarded), novelty.discarded ? "warning" : ""],
    ["not on disk yet", number(novelty.unsaved)],
  ]));
  fill("events", !events.enabled ? none("Switched off: nothing is sent.") : facts([
    ["broker", `${events.broker}`],
    ["connection", events.connected ? "connected" : "not connected", events.connected ? "good" : "warning"],
    ["wait in memory", number(events.memory)], ["wait on disk", `${number(events.disk)} (${bytes(events.disk_bytes)})`],
    ["sent since the start", number(events.sent)],
    ["set aside", number(events.set_aside), events.set_aside ? "warning" : ""],
    ["lost", number(events.lost), events.lost ? "error" : ""],
    ["last error", trouble(events.last_error)],
  ]));
  fill("uploads", !uploads.enabled ? none("Switched off: nothing is sent.") : facts([
    ["receiver", `${uploads.receiver}`], ["files that wait", `${number(uploads.files)} (${bytes(uploads.bytes)})`],
    ["sent since the start", number(uploads.sent)],
    ["refused", number(uploads.refused), uploads.refused ? "warning" : ""],
    ["last success", clock(uploads.last_success)], ["last error", trouble(uploads.last_error)],
  ]));
}

function showRotation(rotation, reload) {
  fill("intervals", rotation.intervals.length ? table("Intervals", rotation.intervals, [
    ["Ended", (i) => clock(i.stop)],
    ["frames", (i) => number(i.frames), true],
    ["ledger", (i) => (i.closed ? element("span", { class: "good" }, "✔ closed")
      : element("span", { class: "error" }, `✖ DOES NOT CLOSE: ${number(i.missing)} frames without a fate`))],
    ["histogram rows", (i) => (i.histogram_rows === null ? "no file" : number(i.histogram_rows)), true],
    ["session rows", (i) => (i.session_rows === null ? "no file" : number(i.session_rows)), true],
    ["new names", (i) => (i.new_qname_rows === null ? "no file" : number(i.new_qname_rows)), true],
    ["file after", (i) => (i.write_seconds === null ? "–" : duration(i.write_seconds)), true],
  ]) : none("The first interval has not ended yet."));
  const outcome = (entry) => {
    const list = element("ul");
    for (const part of entry.parts) {
      list.append(element("li", {}, `${part.part}: `,
        element("span", { class: part.outcome === "failed" ? "error" : "" }, part.outcome), part.text ? ` (${part.text})` : ""));
    }
    return element("details", entry.ok ? {} : { open: "" }, element("summary", {},
      element("span", { class: entry.ok ? "good" : "error" }, entry.ok ? "✔ in order" : "✖ failed in part"),
      ` at ${clock(entry.time)}`), list);
  };
  const parts = reload.history.length ? reload.history.map(outcome) : [none("No reload since the start.")];
  if (reload.waiting) parts.unshift(none(`${number(reload.waiting)} changed parts wait to be taken up.`));
  fill("reloads", ...parts);
}

function showRest(status) {
  const { snapshot, disk, latency, process } = status;
  fill("lists", table("Lists", snapshot.lists, [
    ["List", (l) => l.list.replaceAll("_", " ")], ["entries", (l) => number(l.entries), true],
    ["digest", (l) => (l.digest === null ? "–" : l.digest)], ["in use for", (l) => duration(l.age_seconds), true],
  ]), facts([["key fingerprint", snapshot.key.fingerprint], ["key in use since", day(snapshot.key.since)],
    ["generation", number(snapshot.generation)]]));
  fill("certificates", status.certificates.length ? table("Certificates", status.certificates, [
    ["For", (c) => c.use], ["valid until", (c) => day(c.not_after)],
    ["left", (c) => element("span", { class: c.seconds_left < 0 ? "error" : c.seconds_left < 1209600 ? "warning" : "" },
      duration(c.seconds_left)), true],
  ]) : none("None in use."));
  fill("disk", facts([
    ["state", disk.state, disk.state === "ok" ? "good" : "error"], ["free", bytes(disk.free_bytes)],
    ["stored", bytes(disk.used_bytes)], ["at most", disk.bound_bytes === null ? "no bound" : bytes(disk.bound_bytes)],
    ...Object.entries(disk.kinds).filter(([, size]) => size).map(([kind, size]) => [kind, bytes(size)]),
  ]));
  const latencies = [["response to row", latency.response_to_row], ["interval to file", latency.interval_to_file]];
  fill("latency", table("Latency", latencies, [
    ["From, to", ([name]) => name],
    ["half within", ([, l]) => (l.p50 === null ? (l.count ? "over 5 min" : "–") : duration(l.p50)), true],
    ["99 % within", ([, l]) => (l.p99 === null ? (l.count ? "over 5 min" : "–") : duration(l.p99)), true],
  ]));
  fill("process", facts([
    ["memory", bytes(process.memory_bytes)], ["processor", number(100 * process.cpu_share, 1) + " % of a core"],
    ["threads", number(process.threads)],
    ["open files", `${number(process.open_files)} of ${number(process.open_files_bound)}`],
  ]));
}

function show(status) {
  const program = status.program;
  byId("host").textContent = "on " + program.host;
  byId("about").textContent = `version ${program.version}, up for ${duration(program.uptime_seconds)}, ` +
    `numbers of ${clock(status.time)}`;
  showState(status);
  showFrames(status.frames);
  showInput(status.input);
  showWork(status);
  showOutput(status);
  showRotation(status.rotation, status.reload);
  showRest(status);
}

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`EDM answers ${answer.status}`);
  return answer.json();
}

function lost(error) {
  byId("state").className = "unreachable";
  const since = lastGood ? ` The numbers below are of ${clock(lastGood)}.` : "";
  byId("summary").textContent = `EDM does not answer (${error.message}).${since}`;
  fill("findings");
  document.title = "no answer: EDM";
}

async function refresh() {
  clearTimeout(timer);
  try {
    const [status, history] = await Promise.all([ask("api/status"), ask(`api/history?step=${step}`)]);
    show(status);
    showChart(history);
    lastGood = status.time;
  } catch (error) {
    lost(error);
  }
  timer = setTimeout(refresh, document.hidden ? HIDDEN_MS : VISIBLE_MS);
}

function choose(chosen) {
  step = chosen;
  for (const value of [1, 60]) byId(`step-${value}`).setAttribute("aria-pressed", String(value === step));
  refresh();
}

for (const value of [1, 60]) byId(`step-${value}`).addEventListener("click", () => choose(value));
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
refresh();
