export {Headgate} from './client.js'
export {HeadgateError} from './errors.js'
export {ipKeyGenerator} from './key.js'
export {rateLimit, rateLimit as default} from './middleware.js'
