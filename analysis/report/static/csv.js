// The rows that a reader sees, as a file.
"use strict";
(() => {
  /** A cell; quoted where needed. A text that a spreadsheet would run as a formula gets a ' before. */
  function cell(value) {
    if (value === null) return "";
    if (typeof value === "number") return full(value);
    const inert = /^[=+\-@\t\r]/.test(value) ? "'" + value : value;
    return /[",\n\r]/.test(inert) ? `"${inert.replaceAll('"', '""')}"` : inert;
  }

  /** A 32-bit number in the fewest digits that give it back. */
  function full(value) {
    const short = Number(value.toPrecision(7));
    return String(Math.fround(short) === value ? short : Number(value.toPrecision(9)));
  }

  /** Text of a CSV table: these columns of these rows, numbers in full. */
  isae.csv = (table, names, rows) => {
    const lines = [names.map(cell).join(",")];
    for (const row of rows) lines.push(names.map((name) => cell(table.cell(name, row))).join(","));
    return lines.join("\r\n") + "\r\n";
  };

  /** Offer a text as a file. */
  isae.download = (name, text) => {
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
    isae.h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  };
})();
