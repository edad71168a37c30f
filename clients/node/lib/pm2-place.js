import {lstatSync, mkdirSync, readFileSync, renameSync, writeFileSync} from 'node:fs'
import {homedir} from 'node:os'
import {join} from 'node:path'
import {pathToFileURL} from 'node:url'

// The shortest limit there is for the path of a socket, that of macOS, without the NUL.
const maxSocketPath = 103

/**
 * Where the manager of a bucket and its clients meet: a directory of the PM2 that runs
 * them, so that they need no configuration. It is closed to all other users, or they
 * could put a server of theirs there. A note in it says where the server is, and the
 * numbers of the bucket. It stays when the manager stops: the server of the next one is
 * at the same place.
 */
export class Place {
  #directory

  /** @param {string} name of the bucket */
  constructor(name) {
    this.#directory = join(process.env.PM2_HOME || join(homedir(), '.pm2'), 'headgate')
    this.note = join(this.#directory, `${name}.json`)
    this.socket = join(this.#directory, `${name}.sock`)
    this.data = join(this.#directory, `${name}.data`)
  }

  /** The URL of the socket. */
  get url() {
    return `unix:${pathToFileURL(this.socket).pathname}`
  }

  /** Makes the directory. Throws where it cannot be used, and says why. */
  prepare() {
    if (!process.getuid) throw new Error('it needs a Unix system: elsewhere run headgate serve yourself, and say its url and the numbers of the bucket to each TokenClient')
    if (Buffer.byteLength(this.socket) > maxSocketPath) {
      throw new Error(`${this.socket}: longer than the ${maxSocketPath} bytes that a socket's path may have: choose a shorter name, or another PM2_HOME`)
    }
    mkdirSync(this.#directory, {recursive: true, mode: 0o700})
    this.#check()
  }

  /** @param {string} note */
  write(note) {
    const next = `${this.note}.${process.pid}`
    writeFileSync(next, note, {mode: 0o600})
    renameSync(next, this.note) // whoever reads meanwhile sees one or the other
  }

  /** The note, or null if there is none. Throws where it cannot be trusted. */
  read() {
    try {
      this.#check()
      return readFileSync(this.note, 'utf8')
    } catch (err) {
      if (err.code === 'ENOENT') return null
      throw err
    }
  }

  #check() {
    const found = lstatSync(this.#directory)
    const mode = found.mode & 0o777
    if (!found.isDirectory() || found.uid !== process.getuid?.() || mode & 0o077) {
      throw new Error(
        `${this.#directory}: must be a directory of user ${process.getuid?.()} that is closed to others (mode 700), but ${found.isDirectory() ? `is one of user ${found.uid} with mode ${mode.toString(8)}` : 'is something else'}`
      )
    }
  }
}
