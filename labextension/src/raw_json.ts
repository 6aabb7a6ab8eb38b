/**
 * JSON whose numbers stay as they are written: 1.0 stays 1.0, and an int64 past 2^53 keeps its digits.
 */

/** A number, as its text. */
export class Raw {
  constructor(readonly text: string) {}
}

export type Json = null | boolean | string | Raw | Json[] | { [key: string]: Json };

/** Raises SyntaxError for what is no JSON. */
export function parse(text: string): Json {
  JSON.parse(text); // what is no JSON ends here, with the browser's own words
  const marked = text.replace(/"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g, token =>
    token[0] === '"' ? `"s${token.slice(1)}` : `"n${token}"`
  );
  return unmark(JSON.parse(marked));
}

function unmark(value: unknown): Json {
  if (typeof value === 'string') {
    return value[0] === 'n' ? new Raw(value.slice(1)) : value.slice(1);
  }
  if (Array.isArray(value)) {
    return value.map(unmark);
  }
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key.slice(1), unmark(one)]));
  }
  return value as null | boolean;
}

/** As Python's `json.dumps` writes it. */
export function stringify(value: Json): string {
  if (value instanceof Raw) {
    return value.text;
  }
  if (Array.isArray(value)) {
    return `[${value.map(stringify).join(', ')}]`;
  }
  if (value !== null && typeof value === 'object') {
    const members = Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${stringify(one)}`);
    return `{${members.join(', ')}}`;
  }
  return JSON.stringify(value);
}

/** As a Python expression. */
export function python(value: Json): string {
  if (value instanceof Raw) {
    return value.text;
  }
  if (Array.isArray(value)) {
    return `[${value.map(python).join(', ')}]`;
  }
  if (value !== null && typeof value === 'object') {
    const members = Object.entries(value).map(([key, one]) => `${pythonString(key)}: ${python(one)}`);
    return `{${members.join(', ')}}`;
  }
  if (typeof value === 'string') {
    return pythonString(value);
  }
  return value === null ? 'None' : value ? 'True' : 'False';
}

/** A string as Python writes it. */
export function pythonString(text: string): string {
  const inside = JSON.stringify(text).slice(1, -1);
  return text.includes("'") ? `"${inside}"` : `'${inside.replace(/\\"/g, '"')}'`;
}
