package dynamostore

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// target is what a URL names.
type target struct {
	table            string
	region, endpoint string
	lenient          bool
	unleased         bool
}

// urlOptions are the names that may follow the question mark.
var urlOptions = []string{"endpoint", "leases", "region", "strict"}

// Leases reports whether a URL as that of [Config] wants leases over the store:
// true unless its option leases is false. A [Store] itself takes no notice of it. The
// errors are those of [Open] that concern the URL.
func Leases(url string) (bool, error) {
	t, err := parseURL(url)
	if err != nil {
		return false, fmt.Errorf("dynamodb: %w", err)
	}
	return !t.unleased, nil
}

var (
	tableNames = regexp.MustCompile(`^[a-zA-Z0-9_.-]{3,255}$`)
	regions    = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
)

// parseURL reads a URL as [Config] describes it. No error repeats what may be a
// secret that somebody took for a part of it.
func parseURL(text string) (*target, error) {
	rest, found := strings.CutPrefix(text, "dynamodb://")
	if !found {
		return nil, errors.New("the URL must begin with dynamodb://")
	}
	name, query, _ := strings.Cut(rest, "?")
	if strings.Contains(rest, "@") && !strings.Contains(query, "@") {
		return nil, errors.New("the URL takes no credentials: they are those of the AWS environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	t := &target{table: strings.TrimSuffix(name, "/")}
	if !tableNames.MatchString(t.table) {
		return nil, errors.New("the table's name must have 3 to 255 letters, digits and _.- as in dynamodb://TABLE?region=eu-west-1")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("what follows ? in the URL must be NAME=VALUE pairs joined by &")
	}
	return t, t.options(values)
}

// options reads what follows the question mark.
func (t *target) options(values url.Values) error {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if len(values[name]) > 1 {
			return fmt.Errorf("%s: is in the URL twice", name)
		}
		value := values[name][0]
		switch name {
		case "region":
			if t.region = value; !regions.MatchString(value) {
				return errors.New("region: must be the name of a region, such as eu-west-1")
			}
		case "endpoint":
			u, err := url.Parse(value)
			if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
				return errors.New("endpoint: must be a URL such as http://127.0.0.1:8000")
			}
			t.endpoint = value
		case "leases", "strict":
			yes, err := strconv.ParseBool(value)
			if err != nil {
				return fmt.Errorf("%s: must be true or false, not %q", name, value)
			}
			if name == "leases" {
				t.unleased = !yes
			} else {
				t.lenient = !yes
			}
		default:
			last := len(urlOptions) - 1
			return fmt.Errorf("%q is no option of the URL: there are %s and %s", name, strings.Join(urlOptions[:last], ", "), urlOptions[last])
		}
	}
	return nil
}
