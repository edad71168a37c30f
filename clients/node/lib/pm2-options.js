import {guarded} from './logger.js'
import {readURL} from './options.js'

/** Throws a TypeError for an option that there is not: a misspelt name must not be silence. */
export function refuseUnknown(more, known) {
  const [unknown] = Object.keys(more)
  if (unknown !== undefined) throw new TypeError(`${unknown}: unknown; there are ${known}`)
}

/** Reads the options that managers and clients share. */
export function readShared({name = 'tokens', url: said, logger = console}) {
  const fromEnvironment = said === undefined
  const url = fromEnvironment ? process.env.HEADGATE_URL || undefined : said
  // Of the name a file and a socket are made.
  if (typeof name !== 'string' || !/^[A-Za-z0-9_][A-Za-z0-9._-]{0,39}$/.test(name)) {
    throw new TypeError(`name: ${JSON.stringify(name)}: must be 1 to 40 letters, digits, ".", "_" and "-", and begin with none of "." and "-"`)
  }
  if (typeof logger?.warn !== 'function') throw new TypeError('logger: must have a method warn')
  if (url !== undefined) readURL(url, fromEnvironment ? 'HEADGATE_URL' : 'url')
  return {name, url, logger: guarded(logger)}
}

/** Reads a time in milliseconds, of a timer. */
export function readTime(option, value) {
  if (!Number.isSafeInteger(value) || value < 1 || value > 60_000) throw new TypeError(`${option}: ${value}: must be a whole number of milliseconds from 1 to 60000`)
  return value
}
