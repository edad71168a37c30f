import {spawn} from 'node:child_process'
import {accessSync, constants, statSync} from 'node:fs'
import {delimiter, join} from 'node:path'
import {setTimeout as delay} from 'node:timers/promises'

// How long it takes until a server that has ended is started again, in milliseconds: at
// first, and at most. One that has run for steadyAfter is not to blame for those before.
const firstPause = 100
const longestPause = 10_000
const steadyAfter = 10_000

/**
 * What runs the server ("$@"): a shell that ends it when descriptor 3 is closed, so that it
 * does not outlive its owner, however that ends (kill -9 too). Where PM2 has sent a signal
 * to the whole tree of processes the server has it already, and a second one would cut its
 * end short. A server that has not ended after 5 seconds is killed. The last line ends what
 * is left of the process group. The traps come after the server: a signal that it gets
 * before it is one would be lost in them.
 */
const lifeline = `
"$@" 3<&- &
server=$!
told=; trap told=1 HUP INT TERM
trap '[ "$told" ] || kill "$server"' USR1
{ read -r _ <&3; kill -USR1 $$; sleep 5; kill -9 "$server"; } >/dev/null 2>&1 &
while wait "$server"; code=$?; kill -0 "$server" 2>/dev/null; do :; done
trap : TERM; kill 0; exit "$code"
`

/** Finds the program: what the option says, HEADGATE_BIN, or headgate on the PATH. */
export function findBinary(option) {
  const said = option ?? (process.env.HEADGATE_BIN || undefined)
  const candidates = said === undefined ? (process.env.PATH ?? '').split(delimiter).filter(Boolean).map((dir) => join(dir, 'headgate')) : [said]
  const found = candidates.find(isProgram)
  if (found) return found
  throw new Error(
    `${said === undefined ? 'headgate is not on the PATH' : `${said} is no program`}. Build it in a clone of Headgate with "make build" (bin/headgate), ` +
      'and put it on the PATH, or name it: new TokenManager({binary: FILE}), or HEADGATE_BIN=FILE'
  )
}

function isProgram(file) {
  try {
    accessSync(file, constants.X_OK)
    return statSync(file).isFile()
  } catch {
    return false
  }
}

// What is meant for clients, or for another server of this machine, is not for ours.
const environment = () => Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('HEADGATE_')))

/** Keeps a headgate running, which listens on a socket and keeps its state in a directory. */
export class Server {
  #command
  #logger
  #child = null
  #words = '' // the last that it said
  #ended = new AbortController()
  #running

  /**
   * @param {string} binary
   * @param {{socket: string, data: string}} place
   * @param {{warn(line: string): void}} logger
   */
  constructor(binary, {socket, data}, logger) {
    this.#command = [binary, 'serve', '--resp', `unix:${socket}`, '--data', data, '--http', '', '--grpc', '', '--admin', '', '--memory', '16MiB']
    this.#logger = logger
  }

  /** Resolves when the server listens; from then on it is started again when it ends. */
  async start(timeout) {
    let timer
    const ready = new Promise((resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`headgate did not start within ${timeout} ms: ${this.#words.trim() || 'it said nothing'}`)), timeout)
      this.#running = this.#keep(resolve).then(() => reject(new Error('it was stopped meanwhile')), reject)
    })
    try {
      await ready
    } catch (err) {
      await this.stop()
      throw err
    } finally {
      clearTimeout(timer)
    }
  }

  /** Ends the server. Resolves when it has ended. */
  async stop() {
    this.#ended.abort()
    this.#child?.stdio[3].destroy()
    await this.#running
  }

  async #keep(ready) {
    const {signal} = this.#ended
    for (let pause = firstPause; ; pause = Math.min(2 * pause, longestPause)) {
      const began = performance.now()
      const how = await this.#run(ready)
      if (signal.aborted) return
      if (performance.now() - began > steadyAfter) pause = firstPause
      this.#logger.warn(`headgate: the server ended (${how}), and is started again in ${pause} ms`)
      await delay(pause, undefined, {signal}).catch(() => {})
      if (signal.aborted) return
    }
  }

  /** Runs it once. Resolves when it has ended, with how. */
  #run(ready) {
    return new Promise((resolve, reject) => {
      const child = spawn('/bin/sh', ['-c', lifeline, 'headgate', ...this.#command], {
        stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
        detached: true, // a process group of its own: a terminal's Ctrl-C is for its owner
        env: environment()
      })
      this.#child = child
      child.stdio[3].on('error', () => {}) // it is only there to be closed
      let said = ''
      child.stderr.setEncoding('utf8').on('data', (chunk) => {
        process.stderr.write(chunk)
        this.#words = said = (said + chunk).slice(-2000)
        if (said.includes('msg=listening')) ready()
      })
      child.once('error', reject)
      child.once('exit', (code, signal) => {
        child.stdio[3].destroy()
        resolve(signal ?? `exit code ${code}`)
      })
    })
  }
}
