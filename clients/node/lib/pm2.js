export {TokenManager} from './pm2-manager.js'
export {TokenClient} from './pm2-client.js'
