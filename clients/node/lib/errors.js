/**
 * An error of Headgate. Of refusals there is none: they are decisions.
 * `code` is a word to branch on; it is listed in index.d.ts.
 */
export class HeadgateError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {unknown} [cause]
   */
  constructor(code, message, cause) {
    super(message, cause === undefined ? undefined : {cause})
    this.name = 'HeadgateError'
    this.code = code
  }
}

// What is nobody's fault who asks: the failure policy decides then. Any other error is a
// mistake in the call or in the configuration, and rejects.
const undecided = new Set(['timeout', 'disconnected', 'breaker_open', 'too_many_pending', 'unavailable', 'overloaded', 'closed', 'internal'])

/** Whether the failure policy decides after this error. */
export const isUndecided = (error) => error instanceof HeadgateError && undecided.has(error.code)

// What says that nobody answers. A server that answers "unavailable" is there.
const silent = new Set(['timeout', 'disconnected', 'closed'])

/** Whether this error counts towards the breaker. */
export const isSilence = (error) => silent.has(error.code)

// What says that the server was not asked, or has not answered.
const absent = new Set([...silent, 'breaker_open', 'too_many_pending'])

/** Whether a call that ended so went without the server. */
export const isAbsence = (error) => absent.has(error.code)

/** What an error says; those of several addresses say it in their code only. */
export const textOf = (error) => error.message || error.code
