// Runs all tests, with one server that is built for them unless HEADGATE_BIN names one.
import {spawnSync} from 'node:child_process'
import {readdirSync} from 'node:fs'
import {fileURLToPath} from 'node:url'
import {binary} from './server.js'

const dir = fileURLToPath(new URL('../test/', import.meta.url))
const files = readdirSync(dir).filter((name) => name.endsWith('.test.js'))
const env = {...process.env, HEADGATE_BIN: binary()}
process.exitCode = spawnSync(process.execPath, ['--test', '--test-timeout=60000', ...process.argv.slice(2), ...files.map((name) => dir + name)], {env, stdio: 'inherit'}).status
