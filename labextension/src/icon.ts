/**
 * The icon: a dish that is served. Its colour is the theme's.
 */
import { LabIcon } from '@jupyterlab/ui-components';

const SVG = `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="#616161">
    <path d="M2 18h20v2H2z"/>
    <path d="M12 4.5a1.75 1.75 0 0 1 1.6 2.45A8.5 8.5 0 0 1 20.5 15.3V16.5h-17v-1.2A8.5 8.5 0 0 1 10.4 6.95 1.75 1.75 0 0 1 12 4.5zm-1 4.1a6.6 6.6 0 0 0-5 4.6h1.7a5 5 0 0 1 3.3-3.1z" fill-rule="evenodd"/>
  </g>
</svg>`;

export const icon = new LabIcon({ name: 'jupyter_tfserve:serving', svgstr: SVG });
