/**
 * Numbers and times as the notebook panel writes them.
 */

/** Python's `%.{digits}g`. */
export function general(value: number, digits: number): string {
  if (!Number.isFinite(value)) {
    return Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf';
  }
  const [mantissa, exponent] = value.toExponential(digits - 1).split('e');
  const power = Number(exponent);
  if (value !== 0 && (power < -4 || power >= digits)) {
    const sign = power < 0 ? '-' : '+';
    return `${Number(mantissa)}e${sign}${String(Math.abs(power)).padStart(2, '0')}`;
  }
  const text = value.toFixed(Math.max(0, digits - 1 - power));
  return text.includes('.') ? text.replace(/\.?0+$/, '') : text;
}

/** Bytes, in the unit that suits; "" for unknown. */
export function size(bytes: number | null): string {
  if (bytes === null) {
    return '';
  }
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  while (value >= 999.5 && units.length > 1) {
    value /= 1000;
    units.shift();
  }
  return `${general(value, 3)} ${units[0]}`;
}

/** A latency, in the unit that suits; "–" for none. */
export function milliseconds(value: number | null | undefined): string {
  if (value === null || value === undefined) {
    return '–';
  }
  if (value < 1) {
    return `${(value * 1000).toFixed(0)} µs`;
  }
  return value < 1000 ? `${general(value, 3)} ms` : `${general(value / 1000, 3)} s`;
}

/** A Unix time as short as it can be: today's without the day. */
export function moment(when: number, now: number = Date.now() / 1000): string {
  const there = new Date(when * 1000);
  const two = (part: number) => String(part).padStart(2, '0');
  const time = `${two(there.getHours())}:${two(there.getMinutes())}`;
  const isToday = there.toDateString() === new Date(now * 1000).toDateString();
  const day = `${there.getFullYear()}-${two(there.getMonth() + 1)}-${two(there.getDate())}`;
  return isToday ? time : `${day} ${time}`;
}
