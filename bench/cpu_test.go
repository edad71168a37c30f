package bench

import (
	"syscall"
	"testing"
	"time"
)

// cpu returns the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// reportCPU reports the processor time per call since start, for n calls. Where
// other processes take part of the machine it is steadier than the time that
// has passed; it does not see goroutines that wait for each other.
func reportCPU(b *testing.B, start time.Duration, n int64) {
	b.Helper()
	b.ReportMetric(float64(cpu(b)-start)/float64(n), "cpu-ns/op")
}
