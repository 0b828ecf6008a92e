package host

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// tell tells others what a run came to. What fails here, fails nothing else.
func (r *run) tell(ctx context.Context, outcome Outcome, news bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellTimeout)
	defer cancel()
	status, err := r.host.status(r.state)
	if err != nil {
		r.log("%v", err)
		return
	}
	if r.config.MetricsFile != "" {
		if err := replaceFile(r.config.MetricsFile, []byte(metrics(status)), 0o644); err != nil {
			r.log("writing the metrics: %v", err)
		}
	}
	if r.reportDue(news) {
		if err := r.report(ctx, status); err != nil {
			r.log("this run is not reported: %v", err)
		}
	}
	if len(r.config.Post) > 0 && news {
		if _, err := command(ctx, r.postEnvironment(status), r.config.Post...); err != nil {
			r.log("%v", err)
		}
	}
}

// tellTimeout is how long all that is told may take.
const tellTimeout = time.Minute

// postEnvironment is what a post hook gets besides the environment of all.
func (r *run) postEnvironment(s Status) []string {
	return []string{
		"FOLLOW_HOST=" + s.Host,
		"FOLLOW_POINTER=" + string(s.Pointer),
		"FOLLOW_RESULT=" + string(s.Last.Result),
		"FOLLOW_SENTENCE=" + s.Last.Sentence,
		"FOLLOW_GENERATION=" + strconv.FormatUint(s.Last.Generation, 10),
		"FOLLOW_PATH=" + s.Last.Path.String(),
		"FOLLOW_RUNNING=" + s.Running.String(),
		"FOLLOW_BOOTS=" + s.Boots.String(),
		"FOLLOW_NEEDS_REBOOT=" + strconv.FormatBool(s.Last.NeedsReboot),
		"FOLLOW_STATUS=" + strconv.Itoa(s.Last.Result.Status()),
	}
}

// metrics are a status in the text format of Prometheus.
func metrics(s Status) string {
	var b strings.Builder
	gauge := func(name, help string, value float64) {
		name = "nixos_closure_" + name
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %[1]s gauge\n%[1]s{pointer=%[3]q} %[4]g\n", name, help, s.Pointer, value)
	}
	flag := map[bool]float64{true: 1}
	gauge("generation_wanted", "The newest generation that was verified.", float64(s.Wanted.Number))
	gauge("generation_running", "The generation that runs, 0 if that is none of the pointer's.", float64(s.RunningGeneration))
	gauge("generation_boots", "The generation that the machine boots, 0 if that is none of the pointer's.", float64(s.BootsGeneration))
	gauge("generation_proven", "The last generation that was proven here.", float64(s.ProvenGeneration))
	gauge("success_timestamp_seconds", "When the newest generation was last found, or made, running.", float64(s.Success))
	gauge("run_timestamp_seconds", "When the last run was.", float64(s.Last.At))
	gauge("failed_generations", "How many generations are remembered to have failed here.", float64(len(s.Failed)))
	gauge("needs_reboot", "Whether what runs would boot otherwise.", flag[s.Last.NeedsReboot])
	gauge("held", "Whether somebody has asked this host not to move.", flag[s.Hold != nil])
	gauge("generation_created_timestamp_seconds", "When the newest generation was made.", float64(s.Wanted.Created))
	gauge("generation_expires_timestamp_seconds", "When nobody should begin to follow it any more, 0 for never.", float64(s.Wanted.Expires))
	fmt.Fprintf(&b, "# HELP nixos_closure_result What the last run came to.\n# TYPE nixos_closure_result gauge\nnixos_closure_result{pointer=%q,result=%q} 1\n", s.Pointer, s.Last.Result)
	return b.String()
}
