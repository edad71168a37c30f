/**
 * The caller's logger, which may throw what it likes: what is logged must not change what is
 * decided. Without `info` that is a warning too.
 */
export function guarded(logger) {
  const say = (method, line) => {
    try {
      logger[method](line)?.catch?.(() => {})
    } catch {
      // There is nobody to be told.
    }
  }
  return {
    warn: (line) => say('warn', line),
    info: (line) => say(typeof logger.info === 'function' ? 'info' : 'warn', line)
  }
}
