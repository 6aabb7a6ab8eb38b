/** Names for directories. */
import { expect, it } from 'vitest';

import { proposed } from '../src/saved_model';

it.each([
  ['models/digits/3', 'digits', '3'],
  ['exported', 'exported', ''],
  ['a/my model (new)', 'my_model_new_', ''],
  ['3', '3', ''],
  ['', 'model', ''],
  ['._', 'model', '']
])('%s is %s', (path, name, version) => {
  expect(proposed(path)).toEqual({ name, version });
});
