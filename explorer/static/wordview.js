// One study or two: a radiograph, its regions shaded by attention, its report with words to hover, focus or tap.
//
// The same view stands in a page without a kernel (pnloc.view.explorer.wordview.html calls `mount`) and in JupyterLab (pnloc.view.explorer.widget, by way of
// `render`, as anywidget asks for it). All numbers come from Python; here they are only drawn, so that nothing waits for a kernel.

const SVG = "http://www.w3.org/2000/svg";
const KINDS = { word: "report word", phrase: "report phrase", attribute: "image alone", cam: "Grad-CAM", detector: "detector" };

/** An element with attributes, and children or text. */
function make(name, attributes = {}, ...children) {
  const found = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  found.append(...children);
  return found;
}

const plural = (count, noun) => `${count === 0 ? "no" : count} ${noun}${count === 1 ? "" : noun.endsWith("x") ? "es" : "s"}`;

/** A piece of a report without indents and empty lines. */
const squeezed = (text) => text.replace(/[^\S\n]+/g, " ").replace(/\s*\n\s*/g, "\n");

/** Where a box lies, for those who read and do not see; the patient's right lung is on the left of the picture. */
function place([x1, y1, x2, y2], side) {
  const x = (x1 + x2) / 2 / side, y = (y1 + y2) / 2 / side;
  return `${y < 1 / 3 ? "upper" : y < 2 / 3 ? "middle" : "lower"} ${x < 0.5 ? "left" : "right"} of the picture`;
}

/** The items of a study that a way of looking chooses among. */
const itemsOf = (study, source) =>
  ({ word: study.words, phrase: study.phrases, attribute: study.attributes, detector: [study.detector] })[source] ?? [];

/** What the localizer reads in an image of one's own: probabilities where they are supported, severity, and boxes in pixels of the file. */
function readout({ attributes: [pneumonia, ...others], reading }) {
  const sorted = others.filter((one) => one.probability != null).sort((a, b) => b.probability - a.probability);
  const likely = sorted.filter((one) => one.probability >= 0.5);
  const named = (likely.length ? likely : sorted.slice(0, 3)).map((one) => `${one.label} ${one.probability.toFixed(2)}`);
  const fact = (name, ...text) => [make("b", {}, name), ": ", ...text];
  const row = (kind, cells) => make("tr", {}, ...cells.map((cell) => make(kind, {}, String(cell))));
  const rows = reading.boxes.map(([x1, y1, x2, y2, score]) => row("td", [...[x1, y1, x2, y2].map(Math.round), score.toFixed(3)]));
  const boxes = rows.length
    ? [make("p", {}, make("b", {}, "Boxes"), ", in pixels of the file:"),
      make("table", {}, make("thead", {}, row("th", ["x1", "y1", "x2", "y2", "score"])), make("tbody", {}, ...rows))]
    : [make("p", {}, "No box.")];
  return make("div", { class: "pnloc-readout" },
    make("p", {}, ...fact("Pneumonia", pneumonia.probability == null ? `no probability (${pneumonia.reason}). ` : `probability ${pneumonia.probability.toFixed(2)}. `),
      ...fact("Severity", (reading.grade == null ? "no grade, as the probabilities behind it are not supported; "
        : `expected grade ${reading.grade.toFixed(2)} of 3 (0 none, 1 mild, 2 moderate, 3 severe); `)
        + `boxes times scores cover ${(100 * reading.share).toFixed(1)}% of the image.`)),
    make("p", {}, ...fact("Attributes", named.length ? `${named.join(", ")} (side: the patient's).` : "none that validation supports.")), ...boxes);
}

/** A row of buttons of which one has the keyboard; arrow keys, Home and End go on from there. */
function roving(group, buttons) {
  buttons.forEach((button, k) => { button.tabIndex = k ? -1 : 0; });
  group.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = event.key === "Home" ? 0 : event.key === "End" ? buttons.length - 1 : step ? at + step : -1;
    if (at < 0 || next < 0 || next >= buttons.length) return;
    event.preventDefault();
    buttons[next].focus();
  });
  group.addEventListener("focusin", (event) => {
    if (!buttons.includes(event.target)) return;
    for (const button of buttons) button.tabIndex = button === event.target ? 0 : -1;
  });
}

/** One study: the picture, a line that says what is seen, the report, and what the image alone gives. */
class Panel {
  constructor(study, choose) {
    this.study = study;
    this.preview = null;
    this.chosen = null;
    const side = study.side;
    this.rects = study.boxes.map(([x1, y1, x2, y2]) =>
      make("svg:rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: "pnloc-region" }));
    this.heat = make("svg:image", { width: side, height: side, class: "pnloc-heat", preserveAspectRatio: "none" });
    if (study.cam) this.heat.setAttribute("href", study.cam.image);
    this.truth = make("svg:g", { class: "pnloc-truth" }, ...study.truth.map(([x1, y1, x2, y2]) =>
      make("svg:rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1 })));
    this.kept = make("svg:g", { class: "pnloc-kept" });
    this.svg = make("svg:svg", { viewBox: `0 0 ${side} ${side}`, role: "img" },
      make("svg:image", { href: study.image, width: side, height: side }), this.heat,
      make("svg:g", {}, ...this.rects), this.truth, this.kept);
    this.status = make("p", { class: "pnloc-status", role: "status", "aria-live": "polite" });
    this.buttons = new Map();
    const warning = study.warning ? [make("p", { class: "pnloc-warning", role: "alert" }, make("b", {}, "Warning"), `: ${study.warning}.`)] : [];
    const text = make("div", { class: "pnloc-text" }, ...warning, this.status);
    if (study.reading) text.append(readout(study));
    if (study.report) text.append(make("h4", {}, "Report"), this.#report(choose));
    if (study.phrases.length) text.append(make("h4", {}, "Findings of the report"), this.#row("phrase", study.phrases, choose));
    text.append(make("h4", {}, "What the image alone says"), this.#row("attribute", study.attributes, choose));
    this.root = make("section", { class: "pnloc-panel", "aria-label": `study ${study.name}` },
      make("figure", {}, this.svg, make("figcaption", {}, study.credit || study.name)), text);
  }

  #button(kind, item, label, choose) {
    const button = make("button", { type: "button", class: `pnloc-${kind}`, "aria-pressed": "false" }, label);
    const look = (on) => { this.preview = on ? { source: kind, item } : null; this.draw(); };
    for (const [event, on] of [["mouseenter", true], ["focus", true], ["mouseleave", false], ["blur", false]]) {
      button.addEventListener(event, () => look(on));
    }
    button.addEventListener("click", () => choose(kind, item, itemsOf(this.study, kind)[item].label));
    this.buttons.set(`${kind} ${item}`, button);
    return button;
  }

  /** The report as it is written; words that attend are buttons. */
  #report(choose) {
    const { report, words } = this.study;
    const box = make("div", { class: "pnloc-report", role: "group", "aria-label": "report; its underlined words can be chosen, arrow keys go from one to the next" });
    const buttons = [];
    let at = 0;
    words.forEach((word, item) => {
      if (word.start < at) return;
      const button = this.#button("word", item, report.slice(word.start, word.end), choose);
      box.append(at ? squeezed(report.slice(at, word.start)) : squeezed(report.slice(0, word.start)).trimStart(), button);
      buttons.push(button);
      at = word.end;
    });
    box.append(at ? squeezed(report.slice(at)).trimEnd() : squeezed(report).trim());
    roving(box, buttons);
    return box;
  }

  /** Phrases, or attributes in rows by what they are of ('side:right' stands in the row of sides). */
  #row(kind, items, choose) {
    const rows = new Map(), buttons = [];
    items.forEach((one, item) => {
      const [group, name] = kind === "attribute" && one.label.includes(":") ? one.label.split(":") : ["", one.label];
      const button = this.#button(kind, item, name, choose);
      if (one.probability != null) {
        button.style.setProperty("--share", `${one.probability * 100}%`);
        button.setAttribute("aria-label", `${one.label}, probability ${one.probability.toFixed(2)}`);
        button.append(make("span", {}, one.probability.toFixed(2)));
      } else if (one.reason) {
        button.title = `no probability: ${one.reason}`;
        button.setAttribute("aria-label", `${one.label}, ${button.title}`);
        button.append(make("span", {}, "–"));
      }
      const heading = group === "side" ? "side (the patient's)" : group;
      if (!rows.has(group)) rows.set(group, make("div", { class: "pnloc-row" }, ...(group ? [make("em", { "aria-hidden": "true" }, heading)] : [])));
      rows.get(group).append(button);
      buttons.push(button);
    });
    const all = make("div", { class: "pnloc-rows", role: "group", "aria-label": `${KINDS[kind]}; arrow keys go from one to the next` }, ...rows.values());
    roving(all, buttons);
    return all;
  }

  /** The place of a choice among the study's own items of its kind, where another study's word goes by what it says; -1 for none. */
  #find({ source, item, label }) {
    const listed = itemsOf(this.study, source);
    return label === undefined || listed[item]?.label === label ? item : listed.findIndex((one) => one.label === label);
  }

  /** Draw anew; `chosen` is {source, item, label, share, most, truth}, that of the last time where it is left out. */
  draw(chosen = this.chosen) {
    this.chosen = chosen;
    const { study } = this, shown = this.preview ?? chosen, cam = shown.source === "cam" ? study.cam : null;
    const one = itemsOf(study, shown.source)[this.#find(shown)] ?? null;
    this.svg.setAttribute("class", `pnloc-picture pnloc-by-${shown.source}`);
    this.heat.style.display = cam ? "" : "none";
    const top = Math.max(1e-9, ...(one?.mass ?? []));
    this.rects.forEach((rect, k) => {
      const strength = one ? one.mass[k] / top : 0;
      rect.style.fillOpacity = (0.28 * strength).toFixed(3);
      rect.style.strokeOpacity = strength > 0.02 ? (0.75 * strength).toFixed(3) : 0;
    });
    let boxes = [];
    if (one) boxes = one.ranked.filter(([relative]) => relative >= chosen.share - 1e-6).slice(0, chosen.most).map(([, ...box]) => box);
    if (cam) boxes = cam.boxes[Math.round(chosen.share * 20) - 1].slice(0, chosen.most);
    this.kept.replaceChildren(...boxes.map(([x1, y1, x2, y2]) => make("svg:rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1 })));
    this.truth.style.display = chosen.truth ? "" : "none";
    const said = this.#say(shown, one, cam, boxes, chosen.truth);
    if (this.status.textContent !== said) this.status.textContent = said;
    this.svg.setAttribute("aria-label", `radiograph ${study.name}. ${said}`);
    const pressed = `${chosen.source} ${this.#find(chosen)}`;
    for (const [key, button] of this.buttons) button.setAttribute("aria-pressed", String(key === pressed));
  }

  #say(shown, one, cam, boxes, truth) {
    const { study } = this, kind = KINDS[shown.source];
    const end = `${plural(boxes.length, "box")} kept` + (truth ? `, ${plural(study.truth.length, "true box")} dashed.` : ".");
    if (cam) return `${kind}: ${end}`;
    if (!one) return shown.source === "cam" ? "Grad-CAM: no map of this image." : `${kind}${shown.label ? ` “${shown.label}”` : ""}: not in this study.`;
    const best = one.mass.indexOf(Math.max(...one.mass));
    if (best < 0) return `${kind}: the detector proposed no region.`;
    const label = shown.source === "detector" ? "" : ` “${one.label}”`;
    const unit = shown.source === "detector" ? "score" : "attention";
    return `${kind}${label}: most ${unit} (${Math.round(one.mass[best] * 100)}%) on a region at the ${place(study.boxes[best], study.side)}; ${end}`;
  }
}

/** Put the view into an element. `given` is {studies, starts}; `state` what was chosen before; `changed` is told of every choice. */
export function mount(root, given, state = {}, changed = () => {}) {
  let { studies, starts } = given, panels = [];
  const [share0, most0] = starts.attribute, label0 = studies[0]?.attributes[0].label;
  const begin = { study: 0, other: -1, source: "attribute", item: 0, label: label0, share: share0, most: most0, truth: true };
  state = { ...begin, ...state };
  const select = (name) => make("select", { "aria-label": name });
  const first = select("study"), other = select("compare with");
  const share = make("input", { type: "range", min: 0.05, max: 1, step: 0.05, "aria-label": "threshold, as a share of the best score" });
  const most = make("input", { type: "range", min: 1, max: 5, step: 1, "aria-label": "number of boxes, at the most" });
  const shareText = make("output"), mostText = make("output");
  const truth = make("input", { type: "checkbox" });
  const sources = ["word", "attribute", "cam", "detector"].map((source) => {
    const button = make("button", { type: "button", class: `pnloc-by-${source}` }, { word: "report" }[source] ?? KINDS[source]);
    button.addEventListener("click", () => turn(source === "word" && studies[state.study].phrases.length ? "phrase" : source));
    return [source, button];
  });
  const body = make("div", { class: "pnloc-panels" });
  root.classList.add("pnloc-view");
  root.replaceChildren(
    make("div", { class: "pnloc-controls" },
      make("label", {}, "study ", first), make("label", {}, "compare with ", other),
      make("div", { class: "pnloc-row", role: "group", "aria-label": "way of looking" }, ...sources.map(([, b]) => b)),
      make("label", {}, "threshold ", share, shareText), make("label", {}, "boxes ", most, mostText),
      make("label", {}, truth, " truth (dashed)")),
    body,
    make("p", { class: "pnloc-note" }, "Shaded: the share of the attention. Solid: the boxes kept at this threshold. Research only, not a medical device."));

  const set = (part) => { state = { ...state, ...part }; draw(); changed(state); };
  /** A way of looking begins with the threshold and the number of boxes that were chosen for it on validation images. */
  const family = (source) => (source === "phrase" ? "word" : source);
  const turn = (source, item = 0, label = itemsOf(studies[state.study], source)[item]?.label) => {
    const [share, most] = family(source) === family(state.source) ? [state.share, state.most] : starts[family(source)];
    set({ source, item, label, share, most });
  };
  /** Another study: what was chosen stays where it has it, else its first of the kind comes. */
  const go = (study) => {
    const listed = itemsOf(studies[study], state.source), label = listed.some((one) => one.label === state.label) ? state.label : listed[0]?.label;
    set({ study, label, item: Math.max(0, listed.findIndex((one) => one.label === label)) });
  };
  const fill = () => {
    const options = studies.map((one, k) => make("option", { value: k }, `${k + 1}: ${one.name}`));
    first.replaceChildren(...options);
    other.replaceChildren(make("option", { value: -1 }, "none"), ...options.map((option) => option.cloneNode(true)));
  };
  const build = () => {
    const wanted = [state.study, state.other].filter((k) => k >= 0 && k < studies.length);
    panels = wanted.map((k) => new Panel(studies[k], turn));
    body.replaceChildren(...panels.map((panel) => panel.root));
    body.dataset.built = JSON.stringify(wanted);
  };
  const draw = () => {
    if (body.dataset.built !== JSON.stringify([state.study, state.other].filter((k) => k >= 0 && k < studies.length))) build();
    first.value = state.study; other.value = state.other;
    share.value = state.share; most.value = state.most; truth.checked = state.truth;
    shareText.textContent = state.share.toFixed(2); mostText.textContent = state.most;
    for (const [source, button] of sources) {
      button.setAttribute("aria-pressed", String(source === family(state.source)));
    }
    for (const panel of panels) panel.draw({ ...state });
  };
  first.addEventListener("change", () => go(Number(first.value)));
  other.addEventListener("change", () => set({ other: Number(other.value) }));
  share.addEventListener("input", () => set({ share: Math.round(share.value * 20) / 20 }));
  most.addEventListener("input", () => set({ most: Number(most.value) }));
  truth.addEventListener("change", () => set({ truth: truth.checked }));
  fill();
  draw();
  return {
    state: () => state,
    apply: (now) => { if (JSON.stringify(now) !== JSON.stringify(state)) { state = { ...begin, ...now }; draw(); } },
    replace: (now) => { ({ studies, starts } = now); delete body.dataset.built; fill(); draw(); },
  };
}

/** What anywidget calls with the widget's model. */
function render({ model, el }) {
  const given = () => ({ studies: model.get("studies"), starts: model.get("starts") });
  const view = mount(el, given(), model.get("state"), (state) => { model.set("state", state); model.save_changes(); });
  model.on("change:studies", () => view.replace(given()));
  model.on("change:state", () => view.apply(model.get("state")));
}

export default { render };
