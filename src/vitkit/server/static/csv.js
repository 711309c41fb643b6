// CSV as `vit predict` writes it: RFC 4180 quoting, lines end in \n, bad files in a list of their own.
// A spreadsheet takes a cell that begins with one of these for a formula, so text gets an apostrophe before it.
const FORMULA = /^[=+\-@\t\r\n＝＋－＠]/;

export const cell = value => {
  let text = String(value ?? "");
  if (typeof value !== "number" && FORMULA.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

const lines = rows => rows.map(row => `${row.map(cell).join(",")}\n`).join("");

export const answersCsv = (done, tellsUnknown) => lines([
  ["path", "prediction", "probability", ...(tellsUnknown ? ["unknown"] : [])],
  ...done.map(({ path, answer }) => [path, answer.prediction, answer.probability, ...(tellsUnknown ? [answer.unknown] : [])]),
]);

export const errorsCsv = failed => lines([["path", "reason"], ...failed.map(({ path, failure }) => [path, failure.message])]);
