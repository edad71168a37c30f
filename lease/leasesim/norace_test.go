//go:build !race

package leasesim

// scale is by how many fewer schedules are run.
const scale = 1
