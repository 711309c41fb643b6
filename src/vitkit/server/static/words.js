// Numbers as people read them.
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = number => whole.format(number);
export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

// Never rounded to a certainty that the number does not have.
export const percent = part => {
  if (!Number.isFinite(part)) return "–";
  const shown = 100 * part;
  if (shown > 0 && shown < 0.1) return "< 0.1\u00a0%";
  if (shown > 99.9 && shown < 100) return "> 99.9\u00a0%";
  return `${shown.toFixed(1)}\u00a0%`;
};

export const milliseconds = time => {
  if (!Number.isFinite(time)) return "–";
  return time >= 10_000 ? `${(time / 1000).toFixed(0)} s` : time >= 1000 ? `${(time / 1000).toFixed(1)} s` : `${time.toFixed(time < 10 ? 1 : 0)} ms`;
};

export const duration = seconds => {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
};

export const bytes = size => {
  const units = ["bytes", "kB", "MB", "GB"];
  let at = 0;
  while (size >= 1000 && at < 3) { size /= 1000; at++; }
  return `${at === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${units[at]}`;
};
