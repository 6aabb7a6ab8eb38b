/**
 * Where a model is served: the devices that there are, and the menu that moves it. It stays served while it moves.
 */
import { useEffect, useState } from 'react';

import { useApp } from '../context';
import { size } from '../format';
import { Action, css, Dim, Dot, Form, Menu, Problem, Told, useDoing } from '../parts';
import type { Device as DeviceStatus, DeviceList, ModelStatus } from '../types';
import { moveWords, type Said } from '../words';

export function Device({ status }: { status: ModelStatus }): JSX.Element {
  const { actions, store, trans } = useApp();
  const doing = useDoing();
  const { placement } = status;
  const there = [...new Set(status.versions.flatMap(version => version.devices))].sort().join(', ');
  const [listed, setListed] = useState<DeviceList | null>(null);
  const [chosen, setChosen] = useState(placement.device);
  const step = useStep(status.name);
  useEffect(() => setChosen(placement.device), [placement.device]);
  // Asked for when the section comes into sight, and when the model has moved.
  useEffect(() => {
    void doing.run(async () => setListed(await store.client.devices()));
  }, [there, placement.moving_to]);
  const devices = listed?.devices ?? [];
  const options: [string, string][] = [
    ['auto', trans.__('auto: where there is memory free')],
    ...devices.filter(one => one.usable).map((one): [string, string] => [one.id, `${one.id}: ${one.name}`])
  ];
  if (!options.some(([id]) => id === placement.device)) {
    options.push([placement.device, placement.device]);
  }
  let progress: Said | null = step;
  if (placement.moving_to && !step) {
    progress = { words: trans.__('moving to %1 …', placement.moving_to), kind: 'busy' };
  } else if (placement.error && !placement.moving_to) {
    progress = { words: trans.__('Stayed on %1: %2', there, placement.error), kind: 'bad' };
  }
  return (
    <>
      <ul className={css('rows')}>
        {devices.map(device => (
          <Row key={device.id} device={device} />
        ))}
      </ul>
      <Dim>{listed?.notice}</Dim>
      <Form onSubmit={() => doing.run(() => actions.move(status.name, chosen))}>
        <Menu label={trans.__('Device')} value={chosen} options={options} onChange={setChosen} />
        <Action title={trans.__('It stays served while it moves')} disabled={Boolean(placement.moving_to)}>
          {trans.__('Move')}
        </Action>
      </Form>
      <div role="status">{progress && <Told said={progress} />}</div>
      {doing.outcome}
    </>
  );
}

/** The last step of a move of the model that was told. */
function useStep(name: string): Said | null {
  const { store, trans } = useApp();
  const [step, setStep] = useState<Said | null>(null);
  useEffect(() => {
    const told: Parameters<typeof store.moved.connect>[0] = (_, event) => {
      if (event.model === name) {
        setStep(moveWords(trans, event));
      }
    };
    store.moved.connect(told);
    return () => {
      store.moved.disconnect(told);
    };
  }, [name]);
  return step;
}

function Row({ device }: { device: DeviceStatus }): JSX.Element {
  const { trans } = useApp();
  const { memory_total: total, memory_used: used, load } = device;
  const facts = [
    total !== null && used !== null && trans.__('%1 free of %2', size(Math.max(0, total - used)), size(total)),
    total !== null && used === null && size(total),
    load !== null && trans.__('load %1', `${Math.round(load * 100)}%`),
    device.models.length > 0 && trans.__('serves %1', device.models.join(', '))
  ];
  return (
    <li className={css('row')}>
      <div>
        <Dot kind={device.usable ? 'good' : 'bad'} />
        <b>{device.id}</b> {device.name}
      </div>
      <Dim>{facts.filter(Boolean).join(' · ')}</Dim>
      {!device.usable && <Problem message={device.reason} remedy={device.remedy} />}
    </li>
  );
}
