/**
 * What a SavedModel's directory is called when it is served.
 */

/** A name and a version for a directory: of models/digits/3 they are digits and 3. */
export function proposed(path: string): { name: string; version: string } {
  const parts = path.split('/').filter(Boolean);
  const last = parts.pop() ?? '';
  const isVersion = /^\d+$/.test(last) && parts.length > 0;
  const name = isVersion ? parts[parts.length - 1] : last;
  return {
    name: name.replace(/[^\w.-]+/g, '_').replace(/^[^A-Za-z0-9]+/, '') || 'model',
    version: isVersion ? last : ''
  };
}
