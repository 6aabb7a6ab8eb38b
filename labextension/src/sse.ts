/**
 * Server-sent events, as they come in pieces of any size. Only what our server sends: `data:` lines and comments.
 */

export class EventParser {
  /** The events that this piece completes, as their text. */
  push(piece: string): string[] {
    const found: string[] = [];
    const lines = (this._rest + piece).split('\n');
    this._rest = lines.pop() ?? '';
    for (const whole of lines) {
      const line = whole.endsWith('\r') ? whole.slice(0, -1) : whole;
      if (line.startsWith('data:')) {
        this._data.push(line.slice(line[5] === ' ' ? 6 : 5));
      } else if (line === '' && this._data.length) {
        found.push(this._data.join('\n'));
        this._data = [];
      }
    }
    return found;
  }

  private _rest = '';
  private _data: string[] = [];
}
