/**
 * The plugins of the JupyterLab extension, one a file in plugins/.
 */
import { serving } from './plugins/serving';
import { sidebar } from './plugins/sidebar';

export default [serving, sidebar];
