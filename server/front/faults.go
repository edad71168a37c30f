package front

import "github.com/headgate/headgate/internal/faultlog"

// Faults logs what goes wrong with requests of a door.
type Faults = faultlog.Faults
