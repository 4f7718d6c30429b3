// Elements of the page. Texts of users reach the page as text nodes alone, never as markup.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
      else element.setAttribute(name, value === true ? "" : String(value));
    }
    add(element, children);
    return element;
  }

  /** Append children: elements, texts, numbers, lists of these; null is nothing. */
  function add(element, children) {
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      element.append(child instanceof Node ? child : String(child));
    }
  }

  /** h("p", {class: "note"}, "text", element, ...): a new element. */
  isae.h = (tag, attributes, ...children) =>
    fill(document.createElement(tag), attributes, children);

  /** The same for drawings. */
  isae.s = (tag, attributes, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);

  /** Put these children in the place of what an element held. */
  isae.replace = (element, ...children) => {
    element.replaceChildren();
    add(element, children);
  };

  /** What is missing or went wrong, said in the page. */
  isae.trouble = (text) => isae.h("p", { class: "trouble", role: "alert" }, text);
  isae.absent = (text) => isae.h("p", { class: "absent" }, text);

  /** Spoken by screen readers; seen by nobody. */
  isae.say = (text) => {
    const status = document.getElementById("status");
    if (status.textContent !== text) status.textContent = text;
  };

  /** Call once things have been quiet for a while. */
  isae.later = (milliseconds, call) => {
    let timer = 0;
    return (...given) => {
      clearTimeout(timer);
      timer = setTimeout(() => call(...given), milliseconds);
    };
  };

  const NUMBER = /^[-−+≥≤]?[\d.,]+(e[-−+]?\d+)?( ?%)?$/;
  const isNumber = (value) => typeof value === "number" ||
    (typeof value === "string" && NUMBER.test(value));

  /** A table of texts and elements; numbers stand at the right. */
  isae.plainTable = (caption, columns, rows, attributes) => {
    const none = (value) => value === null || value === undefined || /^[-–]?$/.test(value);
    const numeric = columns.map((_, at) => at > 0 &&
      rows.every((row) => isNumber(row[at]) || none(row[at])));
    const cell = (value, at) => isae.h(at === 0 ? "th" : "td", {
      scope: at === 0 ? "row" : null, class: numeric[at] ? "number" : null,
    }, typeof value === "number" ? isae.number(value) : value ?? "–");
    const box = isae.h("div", { class: "scroll" },
      isae.h("table", attributes,
        isae.h("caption", { class: "unseen" }, caption),
        isae.h("thead", {}, isae.h("tr", {}, columns.map((column, at) => isae.h("th", {
          scope: "col", class: numeric[at] ? "number" : null, title: column.help,
        }, column.title ?? column)))),
        isae.h("tbody", {}, rows.map((row) => isae.h("tr", {}, row.map(cell))))));
    new ResizeObserver(() => reach(box, caption)).observe(box);
    return box;
  };

  /** A table wider or taller than its place can be scrolled by the keyboard too. */
  function reach(box, caption) {
    const more = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
    for (const [name, value] of [["tabindex", "0"], ["role", "group"], ["aria-label", caption]]) {
      if (more) box.setAttribute(name, value);
      else box.removeAttribute(name);
    }
  }
})();
