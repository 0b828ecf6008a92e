package concourse

import (
	"maps"
	"slices"
)

// A Version is what a resource's programs call one.
type Version map[string]string

// versions are those of a resource that Concourse knows, the latest last.
type versions []Version

// listed takes in what a check has listed. A list with nothing new changes
// nothing. One with something new makes all that it lists the latest, in its
// order, known ones too.
func (v versions) listed(list []Version) versions {
	if !slices.ContainsFunc(list, func(l Version) bool { return !v.has(l) }) {
		return v
	}
	for _, l := range list {
		v = append(slices.DeleteFunc(slices.Clone(v), func(k Version) bool { return maps.Equal(k, l) }), l)
	}
	return v
}

// put takes in what a put has made. It is the latest only if it is new.
func (v versions) put(made Version) versions {
	if v.has(made) {
		return v
	}
	return append(v, made)
}

func (v versions) has(version Version) bool {
	return slices.ContainsFunc(v, func(k Version) bool { return maps.Equal(k, version) })
}

// A Build is one run of a job.
type Build struct {
	Job       string
	Number    int
	Inputs    map[string]Version // by the names of its gets
	Succeeded bool

	resources map[string]Version // that it got or put
}

// inputs are what a job would run with now: of inputs that must have passed
// other jobs, what the newest green build of each had, so that what one build
// has made stays together; of others, the latest. Not ok if something is
// missing.
func (e *Engine) inputs(job Job) (inputs map[string]Version, ok bool) {
	inputs, ok = map[string]Version{}, true
	job.Each(func(s Step) {
		if s.Get == "" {
			return
		}
		known := e.versions[s.ResourceName()]
		version := Version(nil)
		switch {
		case len(s.Passed) > 0:
			for _, passed := range s.Passed {
				build, found := e.newestGreen(passed)
				if v := build.resources[s.ResourceName()]; found && (version == nil || maps.Equal(version, v)) {
					version = v
				} else {
					ok = false
				}
			}
		case len(known) > 0:
			version = known[len(known)-1]
		}
		inputs[s.Get] = version
		ok = ok && version != nil
	})
	return inputs, ok
}

func (e *Engine) newestGreen(job string) (Build, bool) {
	for _, build := range slices.Backward(e.Builds) {
		if build.Job == job && build.Succeeded {
			return build, true
		}
	}
	return Build{}, false
}

// triggers says whether one of the inputs starts the job: it is meant to, and
// the job has never run with it.
func (e *Engine) triggers(job Job, inputs map[string]Version) (found bool) {
	job.Each(func(s Step) {
		found = found || s.Trigger && !slices.ContainsFunc(e.Builds, func(b Build) bool {
			return b.Job == job.Name && maps.Equal(b.Inputs[s.Get], inputs[s.Get])
		})
	})
	return found
}
