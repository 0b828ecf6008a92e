package resource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nixos-closure/nixos-closure-resource/internal/download"
	"github.com/nixos-closure/nixos-closure-resource/internal/fields"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// decodeGet takes the params of a get.
func decodeGet(r *request) download.Request {
	o := r.object("params")
	defer o.Finish()
	d := download.Request{Format: cmp.Or(fields.Parsed(o, "format", download.ParseFormat), download.Rootfs)}
	if o.Flag("skip_download", false) {
		d.Format = download.None
	}
	d.Compression = fields.Parsed(o, "compression", download.ParseCompression)
	if d.Compression != "" && d.Format != download.Archive {
		o.FailWith("compression", hint.With(fmt.Errorf("the format is %s", d.Format), "only with format: archive is there something to compress"))
	}
	for _, text := range o.Texts("also") {
		name, err := pointer.ParseName(text)
		if err != nil {
			o.FailWith("also", err)
		} else if !slices.Contains(d.Also, name) {
			d.Also = append(d.Also, name)
		}
	}
	if len(d.Also) > 0 && d.Format != download.Rootfs {
		o.FailWith("also", hint.With(fmt.Errorf("the format is %s", d.Format), "only with format: rootfs can there be several closures"))
	}
	return d
}

// In fetches the closure of a generation, verified, into an empty directory. If
// it fails it leaves the directory empty.
func In(ctx context.Context, step Step) (any, error) {
	r, err := readRequest(step.Stdin)
	if err != nil {
		return nil, err
	}
	config, _ := r.source()
	version, get := requireVersion(r), decodeGet(r)
	if err := r.err(); err != nil {
		return nil, err
	}
	if step.Dir == "" {
		return nil, hint.With(errors.New("no destination was given"), "usage: in <empty directory>")
	}
	if get.Site, err = site.Open(ctx, config, step.Console.Caution); err != nil {
		return nil, err
	}
	get.Console, get.Dir = step.Console, step.Dir
	get.Pointer, get.Generation, get.Path = config.Pointer, version.Generation, version.Path
	got, err := download.Run(ctx, get)
	if failed := (*download.AlsoError)(nil); errors.As(err, &failed) {
		return nil, prefixed("params.also", err)
	}
	if err != nil {
		return nil, err
	}
	return Answer{*version, site.Describe(config.Pointer, got.Generation)}, nil
}
