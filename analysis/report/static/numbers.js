// How numbers are written, the same everywhere.
"use strict";
(() => {
  const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const exact = new Intl.NumberFormat("en", { maximumFractionDigits: 0, useGrouping: false });
  const formats = [1, 2, 3, 4].map((digits) =>
    new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));

  /** A whole number with its thousands apart. */
  isae.count = (value) => whole.format(value);

  /** A number at three significant digits; whole numbers whole; "–" where there is none. */
  isae.number = (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    const size = Math.abs(value);
    const sign = value < 0 ? "−" : "";
    if (Number.isInteger(value)) return sign + (size < 10000 ? exact : whole).format(size);
    if (size >= 100) return sign + (size < 10000 ? exact : whole).format(size);
    if (size >= 10) return sign + formats[0].format(size);
    if (size >= 1) return sign + formats[1].format(size);
    if (size >= 0.1) return sign + formats[2].format(size);
    if (size >= 0.001) return sign + formats[3].format(size);
    return sign + size.toExponential(1).replace("e-", "e−").replace("e+", "e");
  };

  /** A share as per cent. */
  isae.percent = (share) => {
    if (share === null || share === undefined || Number.isNaN(share)) return "–";
    const value = 100 * share;
    return (value >= 10 || value === 0 ? value.toFixed(0) : value.toPrecision(2)) + " %";
  };

  /** "1 feature", "2 features". */
  isae.many = (count, one, more) =>
    `${isae.count(count)} ${count === 1 ? one : more ?? one + "s"}`;

  /** A number for an address or a field: short, and read back as what it says. */
  isae.plain = (value) => String(Number(value.toPrecision(6)));
})();
