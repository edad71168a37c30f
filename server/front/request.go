package front

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/headgate/headgate"
)

// MaxUnits is the largest number of units in the costs of a request.
const MaxUnits = 16

// Reach returns the error for an application that c does not reach, which is that of one
// that is not there; nil if c reaches it. A request without one the gate refuses.
func Reach(c Caller, application string) error {
	if application == "" || c.Reaches(application) {
		return nil
	}
	return &headgate.Error{Code: headgate.NotFound, Field: "application", Err: fmt.Errorf("%.64q is not in the policy", application)}
}

// Address reads the address of a client, IPv4 where it can be; "" is the zero Addr. The
// error is an *[headgate.Error] that names the field.
func Address(field, text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, &headgate.Error{
			Code: headgate.InvalidRequest, Field: field, Err: fmt.Errorf("%.64q: must be an IPv4 or IPv6 address, without port or zone", text),
		}
	}
	return addr.Unmap(), nil
}

// Hold reads ttl_ms, for how long something is held: 1 ms to [headgate.MaxHold]. The error
// is an *[headgate.Error] that names the field.
func Hold(ms int64) (time.Duration, error) {
	const most = int64(headgate.MaxHold / time.Millisecond)
	if ms < 1 || ms > most {
		return 0, &headgate.Error{
			Code: headgate.InvalidRequest, Field: "ttl_ms", Err: fmt.Errorf("%d: must be 1 to %d, which is %v", ms, most, headgate.MaxHold),
		}
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// Millis returns d in milliseconds, rounded up: a wait that is told too short is a wait for
// nothing.
func Millis(d time.Duration) int64 {
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond > 0 {
		ms++
	}
	return ms
}
