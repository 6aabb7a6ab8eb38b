/** What a colleague is told. */
import { expect, it } from 'vitest';

import { sharedLines } from '../src/sharing';
import type { NewShare, Share } from '../src/types';
import { trans } from './models';

const share = { id: '1', kind: 'key', models: ['digits'] } as Share;
const ADDRESS = 'https://hub.example/user/ann%40b/tfserve';

const lines = (made: Partial<NewShare>, address = ADDRESS) =>
  sharedLines(trans, { share, key: '', accept_url: '', ...made }, address, 'digits').map(line => line.text);

it('shows the key, and calls that do not hold it', () => {
  const [key, curl] = lines({ key: 'tfserve_abc' });
  expect(key).toBe('tfserve_abc');
  expect(curl).toContain(`'${ADDRESS}/v1/models/digits:predict'`);
  expect(curl).toContain('$TFSERVE_TOKEN');
  expect(curl).not.toContain('abc');
});

it('says where a link is accepted, and how a token is made', () => {
  const accept_url = '/hub/accept-share?code=c';
  const [open, scope] = lines({ accept_url });
  expect(open).toBe('https://hub.example/hub/accept-share?code=c&next=%2Fhub%2Ftoken');
  expect(scope).toBe('custom:jupyter_server:execute:jupyter_tfserve:inference!server=ann@b/');
  expect(lines({ accept_url }, 'https://hub.example/user/ann/gpu/tfserve')[1]).toMatch(/!server=ann\/gpu$/);
  expect(lines({})[0]).toBe('https://hub.example/hub/token');
});
