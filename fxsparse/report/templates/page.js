"use strict";
// The group graph: choose a group or a layer, follow its members, zoom and move. The drawing itself is in the page.
for (const graph of document.querySelectorAll(".graph")) explore(graph);
follow();
addEventListener("hashchange", follow);

function follow() {
  const [run, name] = location.hash.slice(1).split("/");
  if (name === undefined) return;
  const graph = document.getElementById(run + "-graph");
  if (graph && graph.choose(decodeURIComponent(name))) graph.scrollIntoView({ block: "nearest" });
}

function explore(graph) {
  const data = JSON.parse(graph.querySelector("script").textContent);
  const drawing = graph.querySelector(".drawing"), canvas = graph.querySelector(".canvas"), panel = graph.querySelector(".panel");
  const lanes = new Map([...drawing.querySelectorAll("[data-group]")].map(each => [Number(each.dataset.group), each]));
  const rows = [...drawing.querySelectorAll("[data-row]")];
  const width = drawing.viewBox.baseVal.width, height = drawing.viewBox.baseVal.height;
  let scale = 1;

  function zoom(to, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    to = Math.min(4, Math.max(0.1, to));
    const left = (canvas.scrollLeft + x) * to / scale - x, top = (canvas.scrollTop + y) * to / scale - y;
    drawing.setAttribute("width", width * to);
    drawing.setAttribute("height", height * to);
    scale = to;
    canvas.scrollTo({ left, top, behavior: "instant" });
  }
  const whole = () => Math.min(canvas.clientWidth / width, canvas.clientHeight / height);

  function show(groups, chosenRow) {
    drawing.classList.add("choosing");
    const single = chosenRow === undefined;
    for (const [number, lane] of lanes) {
      lane.classList.toggle("chosen", single && groups.includes(number));
      lane.classList.toggle("touched", !single && groups.includes(number));
    }
    rows.forEach((row, index) => {
      row.classList.toggle("chosen", index === chosenRow);
      row.classList.toggle("touched", single && data.rows[index].groups.some(number => groups.includes(number)));
    });
  }
  function into_view(y) {
    const at = y * scale;
    if (at < canvas.scrollTop || at > canvas.scrollTop + canvas.clientHeight) canvas.scrollTop = at - canvas.clientHeight / 3;
  }
  function add(parent, tag, text) {
    const made = parent.appendChild(document.createElement(tag));
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function link(parent, text, act) {
    const button = add(parent, "button", text);
    button.type = "button";
    button.addEventListener("click", act);
  }
  const number = value => value.toLocaleString("en");

  function choose_group(index) {
    const group = data.groups[index];
    show([index]);
    panel.replaceChildren();
    add(panel, "h4", group.name);
    const kind = group.kind.replace("_", " ");
    add(panel, "p", group.before === group.after ? `${group.after} ${kind}` : `${kind}: ${group.before} before, ${group.after} now`);
    if (group.prunable) add(panel, "p", `One unit costs ${number(group.unit_parameters)} parameters and ${number(group.unit_macs)} MACs.`);
    else add(panel, "p", `Protected: ${group.reason}`);
    const list = add(panel, "ul");
    for (const [tensor, axis, role, row] of group.members) {
      const item = add(list, "li");
      link(item, tensor, () => choose_row(row));
      item.append(`, axis ${axis}: ${role}`);
    }
    const lane = lanes.get(index);
    if (lane) into_view(Number(lane.querySelector(".before").getAttribute("y1")));
    return true;
  }
  function choose_row(index) {
    const row = data.rows[index];
    show(row.groups, index);
    panel.replaceChildren();
    add(panel, "h4", row.name);
    for (const line of row.about) add(panel, "p", line);
    const list = add(panel, "ul");
    for (const member of row.groups) {
      const group = data.groups[member], item = add(list, "li");
      link(item, group.name, () => choose_group(member));
      item.append(group.before === group.after ? `: ${group.after}` : `: ${group.before} → ${group.after}`);
    }
    into_view(Number(rows[index].querySelector("rect").getAttribute("y")));
    return true;
  }
  graph.choose = name => {
    const group = data.groups.findIndex(each => each.name === name);
    if (group >= 0) return choose_group(group);
    const row = data.rows.findIndex(each => each.name === name);
    return row >= 0 && choose_row(row);
  };

  let moved = 0, from = null;
  const touches = new Map();
  drawing.addEventListener("click", event => {
    if (moved > 4) return;
    const lane = event.target.closest("[data-group]"), row = event.target.closest("[data-row]");
    if (lane) choose_group(Number(lane.dataset.group));
    else if (row) choose_row(Number(row.dataset.row));
  });
  graph.querySelector("input").addEventListener("input", event => graph.choose(event.target.value));
  graph.querySelector(".tools").addEventListener("click", event => {
    const wanted = event.target.dataset.zoom;
    if (wanted) zoom(wanted === "fit" ? whole() : scale * (wanted === "in" ? 1.3 : 1 / 1.3));
  });
  canvas.addEventListener("wheel", event => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoom(scale * Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  canvas.addEventListener("keydown", event => {
    if (event.key === "+" || event.key === "=") zoom(scale * 1.3);
    else if (event.key === "-") zoom(scale / 1.3);
    else if (event.key === "0") zoom(whole());
  });
  canvas.addEventListener("pointerdown", event => {
    moved = 0;
    touches.set(event.pointerId, event);
    if (event.pointerType === "mouse" && event.button === 0) from = event;
  });
  canvas.addEventListener("pointermove", event => {
    if (touches.size === 2 && touches.has(event.pointerId)) {
      const apart = () => { const [a, b] = [...touches.values()]; return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY); };
      const before = apart();
      touches.set(event.pointerId, event);
      if (before > 0) zoom(scale * apart() / before);
    } else if (from) {
      moved += Math.abs(event.movementX) + Math.abs(event.movementY);
      if (moved > 4) {
        canvas.classList.add("dragging");
        canvas.scrollBy({ left: -event.movementX, top: -event.movementY, behavior: "instant" });
      }
    }
  });
  const released = event => { touches.delete(event.pointerId); from = null; canvas.classList.remove("dragging"); };
  for (const kind of ["pointerup", "pointercancel", "pointerleave"]) canvas.addEventListener(kind, released);
  if (width > canvas.clientWidth && width < 2 * canvas.clientWidth) zoom(canvas.clientWidth / width);
  graph.dataset.ready = "yes";
}
