"use strict";
// The page of 'tumorsim serve'. Voxels are in RAS+ order here; boxes go to the server in voxels of the file.
(() => {
  // [axis cut, axis across, axis down]; both axes of a picture run backwards: radiological display
  const PLANES = { axial: [2, 0, 1], coronal: [1, 0, 2], sagittal: [0, 1, 2] };
  const SIZE = 420, GRIP = 9;  // pixels of a canvas; how near to a side a pointer takes it
  const FOUR = ["type", "place", "size", "look"];
  const $ = id => document.getElementById(id);
  const views = [];  // {plane, canvas, slider, output, picture, outlines, wanted}
  let archive = {}, scan = null, cross = [0, 0, 0], box = null, corner = null, grip = null, answer = null, timer = 0, kept = null;
  const turns = {};  // how often each part of the page was asked for

  // --- the server -------------------------------------------------------------------------------------------
  async function call(method, path, body) {
    const form = body instanceof FormData;
    const headers = { "X-Tumorsim-Page": "1", ...(body && !form ? { "Content-Type": "application/json" } : {}) };
    const response = await fetch(path, { method, headers, body: body && !form ? JSON.stringify(body) : body }).catch(() => {
      throw new Error("The server is not running any more. Start it again with 'tumorsim serve INDEX', and open the link that it prints.");
    });
    const result = await response.json();
    if (!response.ok || result?.error) throw new Error(result?.error);
    if (result?.notes?.length) say(result.notes.join(" "));
    return result;
  }

  function say(text, kind = "") {
    $("status").textContent = text;
    $("status").className = kind;
  }

  async function working(text, work) {
    const newest = turn("work");
    say(text, "busy");
    try {
      await work();
      if (newest() && $("status").className === "busy") say("");
    } catch (error) {
      say(error.message || "The server does not answer. Is it still running?", "bad");
    }
  }

  function turn(part) {
    // Return whether nothing newer was asked for since: a late response must not overwrite a newer one
    const mine = turns[part] = (turns[part] || 0) + 1;
    return () => turns[part] === mine;
  }

  function add(parent, tag, options = {}, ...children) {
    const { data = {}, attributes = {}, ...own } = options;
    const made = Object.assign(document.createElement(tag), own);
    Object.assign(made.dataset, data);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    if (parent) parent.append(made);
    return made;
  }

  // --- scans ------------------------------------------------------------------------------------------------
  async function filesOf(transfer) {
    const walk = entry => entry.isFile
      ? new Promise((done, failed) => entry.file(file => done([file]), failed))
      : new Promise((done, failed) => {
        const reader = entry.createReader(), found = [];
        const more = () => reader.readEntries(async part => {
          if (!part.length) return done((await Promise.all(found.map(walk))).flat());
          found.push(...part);
          more();
        }, failed);
        more();
      });
    const entries = [...transfer.items].map(item => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
    return entries.length ? (await Promise.all(entries.map(walk))).flat() : [...transfer.files];
  }

  async function maskOf(found, sent) {
    // A mask that came alone is that of the scan which is shown
    await call("DELETE", `scans/${found.id}`);
    if (!scan || !kept) throw new Error("This looks like a mask: it has a few values only. Drop it together with its scan, with 'mask' or 'seg' in its name.");
    const form = new FormData();
    for (const file of kept) form.append("files", file, file.name);
    for (const file of sent.getAll("files")) form.append("mask", file, file.name);
    form.append("patient_id", $("patient").value);
    const whole = await call("POST", "scans", form);
    say("Read as the mask of the scan that is shown.");
    return [whole, form];
  }

  const patient = () => scan ? "" : $("patient").value;  // beside a scan the field is that scan's

  function send(files) {
    if (!files.length) return;
    const image = /\.(nii|nii\.gz|nrrd|mgz)$/i, isMask = file => image.test(file.name) && /mask|seg|label/i.test(file.name);
    const form = new FormData();
    for (const file of files) form.append(files.length > 1 && isMask(file) ? "mask" : "files", file, file.name);
    form.append("patient_id", patient());
    read(form);
  }

  function read(sent) {
    // Of files, or of a study's UID
    return working(sent.study ? "Fetching the study" : "Reading the scan", async () => {
      const typed = $("patient").value, newest = turn("scan");
      let found = await call("POST", "scans", sent);
      if (newest() && found.mask_like && !sent.study) [found, sent] = await maskOf(found, sent);
      if (!newest()) return;
      kept = sent.study ? null : sent.getAll("files");
      show(found);
      if ($("patient").value === typed) $("patient").value = found.patient_id === "unknown" ? "" : found.patient_id;
      $("planes").querySelector("canvas").focus();
    });
  }

  function clearLabels() {
    for (const field of $("labels").querySelectorAll("input")) field.value = "";
  }

  const own = () => answer && answer.scan_number === scan?.scan_number;  // is the answer that of the scan?

  function back() {
    // Planes never stand beside the answer of another scan
    if (own()) return;
    answer = null;
    $("answer").hidden = true;
    $("viewer").hidden = false;
  }

  function show(found) {
    const fresh = !scan || scan.id !== found.id;
    scan = found;
    back();
    $("welcome").hidden = true;
    for (const id of ["draw", "propose"]) $(id).disabled = false;
    if (fresh) {
      clearTimeout(timer);
      turn("answer");  // an answer that is still awaited is of the scan before
      clearLabels();
      box = corner = null;
      cross = scan.ras_shape.map(n => Math.floor(n / 2));
      views.forEach(v => { v.slider.max = scan.ras_shape[PLANES[v.plane][0]] - 1; });
    }
    if (scan.lesions.length) {
      const [from, to] = rasBox(scan.lesions[0].box);
      cross = from.map((v, i) => Math.floor((v + to[i]) / 2));
    }
    $("lesions").hidden = !scan.lesions.length && !scan.proposed;
    $("lesions").querySelector("legend").textContent = scan.proposed ? "Proposed: accept what is a tumor" : "Lesions of the mask";
    $("lesions").querySelectorAll("label").forEach(label => label.remove());
    for (const lesion of scan.lesions) {
      const tick = add(null, "input", { type: "checkbox", value: lesion.number, checked: !scan.proposed });
      tick.addEventListener("change", () => { box = corner = null; showBox(); paint(); });
      tick.addEventListener("focus", () => {
        const [from, to] = rasBox(lesion.box);
        move(from.map((v, i) => Math.floor((v + to[i]) / 2)));
      });
      add($("lesions"), "label", {}, tick, `${lesion.number}: ${(lesion.volume_mm3 / 1000).toFixed(2)} ml${lesion.confidence !== null ? `, confidence ${lesion.confidence.toFixed(2)}` : ""}`);
    }
    showBox();
    move(cross);
  }

  const chosen = () => [...$("lesions").querySelectorAll("input:checked")].map(tick => Number(tick.value));
  const ready = () => { $("ask").disabled = !(scan && (box || chosen().length)); };

  // --- voxels of the file ↔ RAS+ -------------------------------------------------------------------------------
  const sorted = (a, b) => [a.map((v, i) => Math.min(v, b[i])), a.map((v, i) => Math.max(v, b[i]) + 1)];
  const toFile = p => scan.file_from_ras.slice(0, 3).map(row => row[0] * p[0] + row[1] * p[1] + row[2] * p[2] + row[3]);
  const toRas = p => [0, 1, 2].map(i => [0, 1, 2].reduce((sum, j) => sum + scan.file_from_ras[j][i] * (p[j] - scan.file_from_ras[j][3]), 0));
  const fileBox = ([from, to]) => sorted(toFile(from), toFile(to.map(v => v - 1))).flat();
  const rasBox = b => sorted(toRas(b.slice(0, 3)), toRas(b.slice(3).map(v => v - 1)));

  // --- planes -----------------------------------------------------------------------------------------------
  function frame(view) {
    // Return how voxels of a plane become pixels of its canvas: (axis, edge of a voxel) → position
    const [, across, down] = PLANES[view.plane], zoom = Number($("zoom").value);
    const extent = Math.max(...scan.ras_shape.map((n, i) => n * scan.spacing[i]));
    const scale = SIZE * zoom / extent;
    const middle = axis => zoom > 1 ? cross[axis] + 0.5 : scan.ras_shape[axis] / 2;
    return {
      at: (axis, edge) => SIZE / 2 - (edge - middle(axis)) * scan.spacing[axis] * scale,
      back: (axis, position) => middle(axis) - (position - SIZE / 2) / (scan.spacing[axis] * scale),
      across, down,
    };
  }

  function limits() {
    const [low, high] = scan.window, width = (high - low) * 2 ** (-$("contrast").value / 50);
    const center = (low + high) / 2 - (high - low) * $("brightness").value / 100;
    return [center - width / 2, center + width / 2];
  }

  async function load(view) {
    const number = cross[PLANES[view.plane][0]], [low, high] = limits();
    const address = `plane=${view.plane}&number=${number}`;
    if (view.wanted === `${scan.id}${scan.proposed}${address}${low}${high}`) return;
    const wanted = view.wanted = `${scan.id}${scan.proposed}${address}${low}${high}`;
    const picture = new Image();
    picture.src = `scans/${scan.id}/slice?${address}&low=${low}&high=${high}`;
    try {
      const none = scan.lesions.length ? call("GET", `scans/${scan.id}/outlines?${address}`) : {};
      const [outlines] = await Promise.all([none, picture.decode()]);
      if (view.wanted !== wanted) return;
      Object.assign(view, { picture, outlines });
      view.canvas.dataset.slice = number;
    } catch (error) {
      if (view.wanted === wanted) { view.wanted = ""; say("A slice could not be shown.", "bad"); }
    }
    paint();
  }

  function paint() {
    for (const view of scan ? views : []) {
      const context = view.canvas.getContext("2d"), { at, across, down } = frame(view), cut = PLANES[view.plane][0];
      const [w, h] = [scan.ras_shape[across], scan.ras_shape[down]];
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.fillStyle = "#000";
      context.fillRect(0, 0, SIZE, SIZE);
      if (view.picture) {
        const [left, top] = [at(across, w), at(down, h)];
        const [sx, sy] = [(at(across, 0) - left) / w, (at(down, 0) - top) / h];
        context.setTransform(sx, 0, 0, sy, left, top);
        context.drawImage(view.picture, 0, 0, w, h);
        const ticked = chosen();
        for (const [number, path] of Object.entries(view.outlines || {})) {
          context.setTransform(sx, 0, 0, sy, left, top);
          const line = new Path2D();
          line.addPath(new Path2D(path));
          context.lineWidth = 2 / sx;
          context.strokeStyle = "#ffb000";
          context.setLineDash(ticked.includes(Number(number)) && !box ? [] : [6 / sx, 4 / sx]);
          context.stroke(line);
        }
        context.setTransform(1, 0, 0, 1, 0, 0);
      }
      context.setLineDash([]);
      context.lineWidth = 1;
      context.strokeStyle = "rgba(120, 200, 255, .75)";
      const [x, y] = [at(across, cross[across] + 0.5), at(down, cross[down] + 0.5)];
      context.beginPath();
      for (const [a, b, c, d] of [[x, 0, x, y - 8], [x, y + 8, x, SIZE], [0, y, x - 8, y], [x + 8, y, SIZE, y]]) {
        context.moveTo(a, b);
        context.lineTo(c, d);
      }
      context.stroke();
      context.strokeStyle = "#5dff8f";
      context.lineWidth = 2;
      if (box && cross[cut] >= box[0][cut] && cross[cut] < box[1][cut]) {
        const [r, b] = [at(across, box[0][across]), at(down, box[0][down])];
        const [l, t] = [at(across, box[1][across]), at(down, box[1][down])];
        context.strokeRect(l, t, r - l, b - t);
      }
      if (corner) context.strokeRect(at(across, corner[across] + 0.5) - 3, at(down, corner[down] + 0.5) - 3, 6, 6);
      context.fillStyle = "#fff";
      context.font = "14px sans-serif";
      const marks = { axial: "RLAP", coronal: "RLSI", sagittal: "APSI" }[view.plane];
      for (const [mark, mx, my] of [[0, 4, SIZE / 2], [1, SIZE - 14, SIZE / 2], [2, SIZE / 2, 15], [3, SIZE / 2, SIZE - 5]]) context.fillText(marks[mark], mx, my);
    }
  }

  function move(to) {
    cross = to.map((v, i) => Math.max(0, Math.min(scan.ras_shape[i] - 1, v)));
    for (const view of views) {
      const number = cross[PLANES[view.plane][0]];
      view.slider.value = number;
      view.output.textContent = `${number + 1} / ${scan.ras_shape[PLANES[view.plane][0]]}`;
      view.slider.setAttribute("aria-valuetext", `slice ${number + 1} of ${scan.ras_shape[PLANES[view.plane][0]]}`);
      load(view);
    }
    paint();
    ready();
  }

  function step(view, axis, by) {
    const to = [...cross];
    to[axis] += by;
    move(to);
  }

  function point(view, event) {
    const rect = view.canvas.getBoundingClientRect(), { back, across, down } = frame(view);
    const [x, y] = [(event.clientX - rect.left) * SIZE / rect.width, (event.clientY - rect.top) * SIZE / rect.height];
    const at = [...cross];
    at[across] = Math.floor(back(across, x));
    at[down] = Math.floor(back(down, y));
    return { x, y, at };
  }

  function click(view) {
    // One corner of a box, or the other; its depth is the mean of its sides
    if ($("draw").getAttribute("aria-pressed") !== "true") return;
    if (!corner) { corner = [...cross]; say("Now the opposite corner: click, or Enter at the crosshair."); paint(); return; }
    const [cut, across, down] = PLANES[view.plane], made = sorted(corner, cross);
    const sides = [across, down].map(a => (made[1][a] - made[0][a]) * scan.spacing[a]);
    const half = Math.max(0, Math.round((sides[0] + sides[1]) / 4 / scan.spacing[cut] - 0.5));
    made[0][cut] = Math.max(0, cross[cut] - half);
    made[1][cut] = Math.min(scan.ras_shape[cut], cross[cut] + half + 1);
    [box, corner] = [made, null];
    $("lesions").querySelectorAll("input").forEach(tick => { tick.checked = false; });
    $("draw").setAttribute("aria-pressed", "false");
    say("Pull the sides of the box in any plane, or change its numbers.");
    showBox();
    move(made[0].map((v, i) => Math.floor((v + made[1][i]) / 2)));
  }

  function side(view, x, y) {
    // Return [0 start or 1 stop, axis] of the box's side under the pointer
    const { at, across, down } = frame(view);
    if (!box) return null;
    for (const [axis, position, other, along] of [[across, x, down, y], [down, y, across, x]]) {
      if (along < at(other, box[1][other]) - GRIP || along > at(other, box[0][other]) + GRIP) continue;
      for (const end of [0, 1]) if (Math.abs(at(axis, box[end][axis]) - position) < GRIP) return [end, axis];
    }
    return null;
  }

  function pull(view, x, y) {
    const { back, across } = frame(view), [end, axis] = grip;
    const edge = Math.round(back(axis, axis === across ? x : y));
    box[end][axis] = end ? Math.max(box[0][axis] + 1, Math.min(scan.ras_shape[axis], edge)) : Math.max(0, Math.min(box[1][axis] - 1, edge));
    showBox();
    paint();
  }

  function showBox() {
    $("box").hidden = !box;
    const body = $("box").querySelector("tbody");
    if (!body.children.length) ["x", "y", "z"].forEach((name, i) => {
      const row = add(body, "tr", {}, add(null, "th", { textContent: name }));
      ["from", "to"].forEach((word, end) => {
        const field = add(null, "input", { type: "number", min: 0, data: { at: i + 3 * end }, attributes: { "aria-label": `${name} ${word}` } });
        field.addEventListener("change", () => {
          const numbers = [...body.querySelectorAll("input")].sort((a, b) => a.dataset.at - b.dataset.at).map(one => Math.round(Number(one.value)));
          if ([0, 1, 2].every(k => numbers[k] >= 0 && numbers[k] < numbers[k + 3] && numbers[k + 3] <= scan.shape[k])) box = rasBox(numbers);
          else say("A box must lie inside the image, and start before it stops.", "bad");
          showBox();
          paint();
        });
        add(row, "td", {}, field);
      });
    });
    if (box) fileBox(box).forEach((v, i) => { body.querySelector(`[data-at="${i}"]`).value = v; });
    ready();
  }

  function makeViews() {
    for (const plane of Object.keys(PLANES)) {
      const canvas = add(null, "canvas", { width: SIZE, height: SIZE, tabIndex: 0, id: plane });
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label", `${plane} plane. Arrow keys move the crosshair, page up and down the slice, Enter sets a corner of a box.`);
      const slider = add(null, "input", { type: "range", min: 0 }), output = add(null, "output");
      slider.setAttribute("aria-label", `${plane} slice`);
      add($("planes"), "figure", {}, canvas, add(null, "figcaption", {}, plane, slider, output));
      const view = { plane, canvas, slider, output }, [cut, across, down] = PLANES[plane];
      views.push(view);
      slider.addEventListener("input", () => step(view, cut, Number(slider.value) - cross[cut]));
      canvas.addEventListener("wheel", event => {
        if (!scan) return;
        event.preventDefault();
        if (!event.ctrlKey) return step(view, cut, -Math.sign(event.deltaY));
        $("zoom").value = Number($("zoom").value) - Math.sign(event.deltaY) * 0.2;
        paint();
      }, { passive: false });
      canvas.addEventListener("contextmenu", event => event.preventDefault());
      canvas.addEventListener("pointerdown", event => {
        canvas.setPointerCapture(event.pointerId);
        if (event.button) return;
        const { x, y, at } = point(view, event);
        grip = side(view, x, y);
        if (grip) return;
        move(at);
        click(view);
      });
      canvas.addEventListener("pointermove", event => {
        if (!scan) return;
        const { x, y, at } = point(view, event);
        canvas.style.cursor = side(view, x, y) ? "move" : "crosshair";
        if (event.buttons === 2) {
          $("contrast").value = Number($("contrast").value) + event.movementX / 2;
          $("brightness").value = Number($("brightness").value) - event.movementY / 2;
          views.forEach(load);
        } else if (event.buttons && grip) pull(view, x, y);
        else if (event.buttons && !corner) move(at);
      });
      canvas.addEventListener("pointerup", () => { grip = null; });
      canvas.addEventListener("keydown", event => {
        const steps = { ArrowLeft: [across, 1], ArrowRight: [across, -1], ArrowUp: [down, 1], ArrowDown: [down, -1], PageUp: [cut, 1], PageDown: [cut, -1] };
        if (steps[event.key]) step(view, steps[event.key][0], steps[event.key][1] * (event.shiftKey ? 5 : 1));
        else if (event.key === "Enter") click(view);
        else if (event.key === "Escape") { corner = null; $("draw").setAttribute("aria-pressed", "false"); paint(); }
        else return;
        event.preventDefault();
      });
    }
  }

  // --- queries ----------------------------------------------------------------------------------------------
  function valueOf(column, text) {
    // What is typed or chosen is text; columns hold numbers and booleans too
    const { min, values = [] } = archive.columns[column];
    return values.find(value => String(value) === text) ?? (min === undefined ? text : Number(text));
  }

  function conditions() {
    const where = {};
    for (const field of $("filters").querySelectorAll("select, input")) {
      if (field.value === "") continue;
      const { column, sign } = field.dataset;
      if (sign) (where[column] ||= []).push([sign, Number(field.value)]);
      else where[column] = [valueOf(column, field.value)];
    }
    return where;
  }

  function query() {
    const asked = { scan: scan.id, n_neighbors: Number($("n").value), where: conditions() };
    if (box) asked.box = fileBox(box); else asked.lesions = chosen();
    if ($("patient").value) asked.patient_id = $("patient").value;
    if ($("leave-out").checked) asked.exclude = "same_patient";
    const sliders = [...$("aspects").querySelectorAll("input")];
    if (sliders.some(one => one.value !== one.defaultValue)) {
      asked.aspects = Object.fromEntries(sliders.filter(one => Number(one.value)).map(one => [one.name, Number(one.value)]));
    }
    return asked;
  }

  function ask(asked) {
    return working("Looking for similar tumors", async () => {
      await open(call("POST", "queries", asked));
    });
  }

  async function open(asked) {
    const newest = turn("answer"), found = await asked.catch(error => error);
    if (!newest()) return;
    $("answer").hidden = found instanceof Error;  // the sheet is of other settings
    if (found instanceof Error) {
      $("viewer").hidden = !scan;
      throw found;
    }
    if (answer?.scan_number !== found.scan_number) clearLabels();
    answer = found;
    const { case_id, patient_id } = answer.queries[0], archived = answer.scan_number === null;
    $("whose").textContent = own() ? "Answer" : `Answer for ${answer.tumor_ids.join(", ")}${archived ? " of the archive" : ` of scan ${answer.scan_number}`}`;
    $("viewer").hidden = !own();
    $("back").hidden = !scan || own();
    $("add").hidden = archived;
    $("which").replaceChildren(...answer.tumor_ids.map((id, i) => add(null, "option", { textContent: id, value: i + 1 })));
    $("which").parentElement.hidden = answer.tumor_ids.length === 1;
    $("add-patient").value = patient_id === "unknown" ? "" : patient_id;
    $("add-case").value = case_id;
    $("save").replaceChildren("Save as ");
    for (const kind of answer.kinds) {
      const download = kind === "seg" ? "tumor.dcm" : `answer.${kind}`;
      add($("save"), "a", { href: `queries/${answer.id}.${kind}`, download, textContent: kind.toUpperCase() });
    }
    choose("query");
    await new Promise(done => {
      $("sheet").addEventListener("load", done, { once: true });
      $("sheet").contentWindow.location.replace(`queries/${answer.id}.html`);  // no step for the Back button
    });
  }

  function remember() {
    return working("Reading the history", async () => {
      const newest = turn("history"), { queries } = await call("GET", "queries");
      if (!newest()) return;
      const made = heads(["time", "scan", "tumor", "vote", "settings"]), body = add(made, "tbody");
      for (const one of queries) {
        const button = add(null, "button", { type: "button", textContent: one.tumor_ids.join(", ") });
        button.addEventListener("click", () => working("Opening", async () => {
          await open(call("GET", `queries/${one.id}.json`));
          $("answer").scrollIntoView();
        }));
        add(body, "tr", {}, add(null, "td", { textContent: new Date(one.time).toLocaleTimeString() }),
          add(null, "td", { textContent: one.scan_number ?? "archive" }), add(null, "th", { scope: "row" }, button),
          add(null, "td", { textContent: one.votes.join("\n"), className: "lines" }),
          add(null, "td", { textContent: Object.entries(one.settings).map(pair => pair.join(" ")).join("\n"), className: "lines" }));
      }
      $("queries").replaceChildren(queries.length ? made : "No query yet.");
    });
  }

  function live() {
    // A changed slider or filter asks again, once there is an answer
    clearTimeout(timer);
    if (own() && !$("ask").disabled) timer = setTimeout(() => ask(query()), 500);
  }

  function makeControls() {
    const names = FOUR.filter(name => name in archive.aspects);
    for (const name of names.length ? names : Object.keys(archive.aspects)) {
      const slider = add(null, "input", { type: "range", min: 0, max: 2, step: 0.05, name });
      slider.setAttribute("value", archive.aspects[name]);
      add($("aspects"), "label", {}, add(null, "span", { textContent: name }), slider);
      slider.addEventListener("change", live);
    }
    const own = /^(patient_id|case_id|tumor_id|mask_value|[xyz][01]|.*_mm|measured_from)$/;
    for (const [column, about] of Object.entries(archive.columns)) {
      add($("by-column"), "option", { textContent: column });
      const label = column.replace(/^label_/, "");
      if (own.test(column) && column !== "diameter_mm") continue;
      const row = add(null, "label", {}, add(null, "span", { textContent: label, title: label }));
      if (about.values && about.values.length) {
        const list = add(row, "select", { data: { column } }, add(null, "option", { value: "", textContent: "any" }));
        for (const value of about.values) add(list, "option", { textContent: value });
      } else if ("min" in about) {
        for (const [sign, word, end] of [[">=", "from", "min"], ["<=", "to", "max"]]) {
          add(row, "input", { type: "number", step: "any", placeholder: Math.round(about[end] * 100) / 100, data: { column, sign }, attributes: { "aria-label": `${label} ${word}` } });
        }
      } else continue;
      $("filters").append(row);
      if (column.startsWith("label_")) {
        add($("by-task"), "option", { textContent: label, value: label, selected: label === "type" });
        const known = add($("labels"), "datalist", { id: `known-${label}` });
        for (const value of about.values || []) add(known, "option", { value });
        add($("labels"), "label", {}, label, add(null, "input", { name: label, attributes: { list: known.id } }));
      }
    }
    $("filters").addEventListener("change", live);
  }

  // --- archive ----------------------------------------------------------------------------------------------
  async function refresh() {
    archive = await call("GET", "archive");
    $("archive-size").textContent = `Archive '${archive.name}': ${archive.n_tumors} tumors`;
    $("undo").disabled = !archive.n_changes;
    $("pull").hidden = !archive.pulls;
  }

  function heads(columns) {
    const head = add(null, "tr", {}, ...columns.map(name => add(null, "th", { scope: "col", textContent: name.replace(/^label_/, "") })));
    return add(null, "table", {}, add(null, "thead", {}, head));
  }

  function table(rows, columns) {
    const made = heads(columns), body = add(made, "tbody");
    for (const row of rows) {
      const line = add(body, "tr");
      for (const name of columns) {
        const value = row[name], text = value == null ? "–" : typeof value === "number" ? String(Math.round(value * 100) / 100) : value;
        if (name !== "tumor_id") { add(line, "td", { textContent: text }); continue; }
        const button = add(null, "button", { type: "button", textContent: text });
        button.addEventListener("click", () => showTumor(text));
        add(line, "th", { scope: "row" }, button);
      }
    }
    return made;
  }

  const labelsOf = () => Object.keys(archive.columns).filter(name => name.startsWith("label_"));

  function browse() {
    return working("Reading the archive", async () => {
      const newest = turn("table");
      await refresh();
      const column = $("by-column").value, sign = $("by-sign").value, text = $("by-value").value, value = valueOf(column, text);
      const where = text ? { [column]: sign === "=" ? [value] : [[sign, value]] } : {};
      const found = await call("GET", `tumors?where=${encodeURIComponent(JSON.stringify(where))}`);
      if (!newest()) return;
      $("found").textContent = `${found.n} ${found.n === 1 ? "tumor" : "tumors"}${found.n > found.tumors.length ? `, the first ${found.tumors.length} shown` : ""}`;
      $("table").replaceChildren(table(found.tumors, ["tumor_id", "patient_id", ...labelsOf(), "volume_mm3"].filter(n => n in archive.columns)));
      await chart();
    });
  }

  function draw(parent, tag, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    parent.append(made);
    return made;
  }

  async function chart() {
    const newest = turn("map"), dots = [];
    const { task, map } = await call("GET", `map?task=${encodeURIComponent($("by-task").value || "type")}`);
    if (!newest()) return;
    $("map").hidden = !map;
    if (!map) return;
    $("points").replaceChildren();
    $("legend").replaceChildren();
    const label = `Map of ${map.n} tumors by ${task}: arrow keys go from point to point, Enter opens a tumor`;
    const picture = draw($("points"), "svg", { viewBox: `0 0 ${map.width} ${map.height}`, tabindex: 0, role: "application", "aria-label": label });
    for (const { name, color, points, tumor_ids } of map.groups) {
      const dot = add(null, "span", { textContent: "● " });
      dot.style.color = color;
      add($("legend"), "span", {}, dot, `${name.replaceAll("_", " ")} (${points.length})`);
      points.forEach(([cx, cy], i) => {
        const title = document.createElementNS("http://www.w3.org/2000/svg", "title"), id = tumor_ids[i];
        title.textContent = `${id}: ${name.replaceAll("_", " ")}`;
        const made = draw(picture, "circle", { cx, cy, r: 3.5, fill: color, "data-id": id }, title);
        made.addEventListener("click", () => showTumor(id));
        dots.push({ made, cx, title: title.textContent, id });
      });
    }
    dots.sort((a, b) => a.cx - b.cx);
    let at = -1;
    picture.addEventListener("keydown", event => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Enter" && dots[at]) showTumor(dots[at].id);
      else if (by) {
        at = Math.max(0, Math.min(dots.length - 1, at + by));
        mark(dots[at].id);
        say(dots[at].title);
      } else return;
      event.preventDefault();
    });
    const some = map.n < map.n_all ? `${map.n} of ${map.n_all}` : map.n;
    $("map-note").textContent = `${some} tumors by the distance of answers. Two principal components, ${map.shares.join(" and ")} of the spread: near on the map need not be near.`;
  }

  function mark(id) {
    for (const dot of $("points").querySelectorAll("circle")) dot.classList.toggle("chosen", dot.dataset.id === id);
  }

  function browseAll() {
    // After a change too: the filter may name a value that no tumor has any more
    $("by-value").value = "";
    return browse();
  }

  function showTumor(id) {
    return working("Reading a tumor", async () => {
      const newest = turn("tumor"), { tumor, nearest } = await call("GET", `tumors/${encodeURIComponent(id).replaceAll("%2F", "/")}`);
      if (!newest()) return;
      const page = $("tumor");
      mark(id);
      page.hidden = false;
      page.replaceChildren(add(null, "h2", { textContent: id }));
      const facts = Object.entries(tumor).filter(([name, value]) => value != null && !/^[xyz][01]$/.test(name));
      add(page, "p", { textContent: facts.map(([name, value]) => `${name.replace(/^label_/, "")}: ${typeof value === "number" ? Math.round(value * 100) / 100 : value}`).join(" · ") });
      const look = add(null, "button", { textContent: "Answer sheet" }), drop = add(null, "button", { textContent: "Remove from the archive" });
      look.addEventListener("click", () => ask({ tumor: id, exclude: "same_patient" }));
      drop.addEventListener("click", () => working("Removing", async () => {
        await call("DELETE", `tumors/${encodeURIComponent(id).replaceAll("%2F", "/")}`);
        page.hidden = true;
        await browseAll();
        say(`Removed ${id}. 'Undo the last change' brings it back.`);
      }));
      add(page, "div", { className: "row" }, look, drop);
      add(page, "h2", { textContent: "Nearest, of other patients" });
      page.append(table(nearest, ["rank", "distance", "tumor_id", "patient_id", ...labelsOf(), "volume_mm3"].filter(n => nearest.length && n in nearest[0])));
      page.scrollIntoView({ block: "nearest" });
    });
  }

  function choose(name) {
    for (const one of ["query", "archive", "history"]) {
      $(one).hidden = one !== name;
      $(`tab-${one}`).setAttribute("aria-selected", one === name);
    }
  }

  // --- start ------------------------------------------------------------------------------------------------
  function connect() {
    const on = (id, what, work) => $(id).addEventListener(what, work);
    for (const id of ["files", "folder"]) on(id, "change", event => { send([...event.target.files]); event.target.value = ""; });
    document.addEventListener("dragover", event => { event.preventDefault(); $("drop").classList.add("over"); });
    document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
    document.addEventListener("drop", async event => {
      event.preventDefault();
      $("drop").classList.remove("over");
      send(await filesOf(event.dataTransfer));
    });
    const pull = () => $("study").value && read({ study: $("study").value.trim(), patient_id: patient() });
    on("fetch", "click", pull);
    on("study", "keydown", event => { if (event.key === "Enter") { event.preventDefault(); pull(); } });
    on("draw", "click", () => {
      const off = $("draw").getAttribute("aria-pressed") === "true";
      back();
      $("draw").setAttribute("aria-pressed", !off);
      corner = null;
      say(off ? "" : "Click one corner of the box in a plane, or Enter at the crosshair.");
      if (!off) views[0].canvas.focus();
    });
    on("propose", "click", () => working("The model looks for lesions", async () => {
      box = null;
      const found = await call("POST", `scans/${scan.id}/proposals`, {});
      if (scan.id !== found.id) return;
      show(found);
    }));
    on("back", "click", back);
    on("panel", "submit", async event => {
      event.preventDefault();
      await ask(query());
      if (answer && $("status").className !== "bad") $("answer").scrollIntoView();
    });
    for (const id of ["n", "leave-out"]) on(id, "change", live);
    for (const id of ["brightness", "contrast"]) on(id, "input", () => views.forEach(load));
    on("zoom", "input", paint);
    on("add-tumor", "click", () => working("Adding", async () => {
      const labels = Object.fromEntries([...$("labels").querySelectorAll("input")].filter(one => one.value).map(one => [one.name, one.value]));
      const body = { query: answer.id, lesion: Number($("which").value), labels, patient_id: $("add-patient").value, case_id: $("add-case").value, keep_scan: $("keep").checked };
      const { tumor_id } = await call("POST", "tumors", body);
      await refresh();
      say(`Added ${tumor_id} to the archive.`);
    }));
    for (const [name, then] of [["query", () => {}], ["archive", browse], ["history", remember]]) {
      on(`tab-${name}`, "click", () => { choose(name); then(); });
    }
    on("by-task", "change", () => working("Drawing", chart));
    on("by-go", "click", browse);
    on("by-clear", "click", browseAll);
    on("by-column", "change", () => {
      $("by-values").replaceChildren(...(archive.columns[$("by-column").value].values || []).map(value => add(null, "option", { value })));
    });
    on("undo", "click", () => working("Undoing", async () => {
      const { undone } = await call("POST", "undo");
      $("tumor").hidden = true;
      await browseAll();
      say(`Undone: ${undone}.`);
    }));
  }

  history.replaceState(null, "", "/");  // the token leaves the address bar
  makeViews();
  connect();
  working("Reading the archive", async () => { await refresh(); makeControls(); });
})();
