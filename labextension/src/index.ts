/**
 * The plugins of the JupyterLab extension, one a file in plugins/.
 */
import { commands } from './plugins/commands';
import { files } from './plugins/files';
import { running } from './plugins/running';
import { serving } from './plugins/serving';
import { sidebar } from './plugins/sidebar';
import { statusbar } from './plugins/statusbar';

export default [serving, sidebar, statusbar, commands, files, running];
