package chart

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// leaf is a value that the chart has, by its path.
type leaf struct {
	path  []string
	value any
}

func (l leaf) String() string { return strings.Join(l.path, ".") }

// set returns values in which only this one is other.
func (l leaf) set(value any) string {
	for _, key := range slices.Backward(l.path) {
		value = map[string]any{key: value}
	}
	text, err := yaml.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// leaves lists the values of values.yaml. Maps that users fill are leaves:
// they are empty, or hold resources and the like.
func leaves(t *testing.T) []leaf {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		t.Fatal(err)
	}
	whole := []string{"resources", "podSecurityContext"}
	var found []leaf
	var walk func(path []string, value any)
	walk = func(path []string, value any) {
		m, isMap := value.(map[string]any)
		if !isMap || len(m) == 0 || slices.Contains(whole, path[len(path)-1]) {
			found = append(found, leaf{slices.Clone(path), value})
			return
		}
		for key, value := range m {
			walk(append(path, key), value)
		}
	}
	for key, value := range values {
		walk([]string{key}, value)
	}
	slices.SortFunc(found, func(a, b leaf) int { return strings.Compare(a.String(), b.String()) })
	return found
}

// others are values unlike the default, by path or by the path's last word,
// where a word of letters would not do.
var others = map[string]any{
	"imagePullSecrets":                         []any{map[string]any{"name": "other"}},
	"log.format":                               "json",
	"log.level":                                "debug",
	"image.pullPolicy":                         "Always",
	"kubeletDir":                               "/other",
	"gateway.controllerAddress":                "other:1",
	"gateway.service.type":                     "ClusterIP",
	"gateway.service.externalTrafficPolicy":    "Local",
	"gateway.service.loadBalancerSourceRanges": []any{"10.0.0.0/8"},
	"networkPolicies.gatewayFrom":              []any{map[string]any{"podSelector": map[string]any{}}},
	"networkPolicies.metricsFrom":              []any{map[string]any{"podSelector": map[string]any{}}},
	"node.maxUnavailable":                      2,
	"node.fuseTransport":                       "io-uring",
	"engine.upgrade":                           "Manual",
	"snapshotClasses.deletionPolicy":           "Retain",
	"storageClasses":                           []any{map[string]any{"name": "other", "backingStorageClass": "standard"}},
	"digest":                                   "sha256:" + strings.Repeat("ab", 32),
	"engineLinger":                             "7m",
	"orphanGrace":                              "7m",
	"interval":                                 "7m",
	"timeout":                                  "7m",
	"extraArgs":                                []any{"--other"},
	"command":                                  []any{"/other"},
	"tolerations":                              []any{map[string]any{"key": "other"}},
	"nodeSelector":                             map[string]any{"other": "x"},
	"annotations":                              map[string]any{"other": "x"},
	"podAnnotations":                           map[string]any{"other": "x"},
	"podLabels":                                map[string]any{"other": "x"},
	"labels":                                   map[string]any{"other": "x"},
	"affinity":                                 map[string]any{"nodeAffinity": map[string]any{}},
	"resources":                                map[string]any{"requests": map[string]any{"cpu": "7m"}, "limits": map[string]any{"memory": "7Gi"}},
	"podSecurityContext":                       map[string]any{"runAsUser": 7},
}

func (l leaf) other() any {
	if value, ok := others[l.String()]; ok {
		return value
	}
	if value, ok := others[l.path[len(l.path)-1]]; ok {
		return value
	}
	switch value := l.value.(type) {
	case bool:
		return !value
	case string:
		return "other"
	case float64:
		return int(value) + 1
	}
	panic(fmt.Sprintf("%s has no other value", l))
}

// base are values in which whatever a value is about is there.
func (l leaf) base() []string {
	base := []string{everything}
	switch path := l.String(); {
	case path == "site": // its default is refused with a gateway
		return nil
	case path == "gateway.service.nodePort":
	case strings.HasPrefix(path, "gateway.service."):
		base = append(base, "gateway: {service: {type: LoadBalancer}}")
	case path == "priorityClasses.data" || path == "priorityClasses.control":
		base = append(base, "priorityClasses: {create: false}")
	}
	return base
}

// No value is accepted and ignored: each, set to another, changes what is
// rendered.
func TestEveryValueHasAnEffect(t *testing.T) {
	for _, l := range leaves(t) {
		t.Run(l.String(), func(t *testing.T) {
			var rendered [2]string
			for i, value := range []any{l.value, l.other()} {
				var err error
				if rendered[i], err = render(t, append(l.base(), l.set(value))...); err != nil {
					t.Fatal(err)
				}
			}
			if rendered[0] == rendered[1] {
				t.Errorf("%v renders the same as %v", l.other(), l.value)
			}
		})
	}
}

func TestSchemaRefuses(t *testing.T) {
	cases := map[string]struct{ values, refused string }{
		"unknown key":             {"controler: {}", "controler"},
		"unknown key below":       {"gateway: {service: {ports: 7443}}", "ports"},
		"unknown key of an image": {"image: {name: lockstep}", "name"},
		"unknown key of a class":  {"storageClasses: [{name: a, backingStorageClass: b, backing: c}]", "backing"},
		"class without backing":   {"storageClasses: [{name: a}]", "backingStorageClass"},
		"class with two backings": {"storageClasses: [{name: a, backingStorageClass: b, parameters: {backingStorageClass: c}}]", "invalid propertyName"},
		"site name":               {"site: Paris", "site"},
		"driver name":             {"driverName: a/b", "driverName"},
		"relative folder":         {"kubeletDir: var/lib/kubelet", "kubeletDir"},
		"folder with a slash":     {"kubeletDir: /var/lib/kubelet/", "kubeletDir"},
		"digest":                  {"image: {digest: latest}", "digest"},
		"log level":               {"log: {level: loud}", "level"},
		"pull policy":             {"image: {pullPolicy: Sometimes}", "pullPolicy"},
		"no limits":               {"engine: {resources: {limits: null}}", "limits"},
		"no replicas":             {"gateway: {replicas: 0}", "replicas"},
		"port":                    {"gateway: {service: {port: 65536}}", "port"},
		"duration":                {"controller: {engineLinger: 60}", "engineLinger"},
		"boolean":                 {"metrics: {enabled: 'yes'}", "enabled"},
		"unnamed site":            {"gateway: {enabled: true}", "set site"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := render(t, c.values); err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("got %v, want a refusal that names %s", err, c.refused)
			}
		})
	}
}

// Every object of the schema says what else may be in it, which is what makes
// it refuse unknown keys, and every key of it has a default in values.yaml.
func TestSchemaIsClosed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	// Kubernetes checks these.
	free := regexp.MustCompile(`/(global|affinity|podSecurityContext|objects/items|claims/items)$`)
	var walk func(path string, node any)
	walk = func(path string, node any) {
		switch node := node.(type) {
		case map[string]any:
			if _, closed := node["additionalProperties"]; node["type"] == "object" && !closed && !free.MatchString(path) {
				t.Errorf("%s takes unknown keys", path)
			}
			for key, value := range node {
				if key == "properties" || key == "definitions" {
					for name, property := range value.(map[string]any) {
						walk(path+"/"+name, property)
					}
					continue
				}
				walk(path+"/"+key, value)
			}
		case []any:
			for _, value := range node {
				walk(path, value)
			}
		}
	}
	walk("", schema)

	var defaults map[string]any
	values, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(values, &defaults); err != nil {
		t.Fatal(err)
	}
	checkDefaults(t, "", schema, defaults)
}

func checkDefaults(t *testing.T, path string, schema, defaults map[string]any) {
	t.Helper()
	properties, _ := schema["properties"].(map[string]any)
	for name, property := range properties {
		value, ok := defaults[name]
		if !ok && path+name != "global" {
			t.Errorf("values.yaml does not have %s%s", path, name)
		}
		if below, isMap := value.(map[string]any); isMap {
			checkDefaults(t, path+name+".", property.(map[string]any), below)
		}
	}
}

// Every key has a comment above it where its name first appears.
func TestValuesAreDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var document yamlv3.Node
	if err := yamlv3.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	var walk func(path string, node *yamlv3.Node)
	walk = func(path string, node *yamlv3.Node) {
		for i := 0; node.Kind == yamlv3.MappingNode && i < len(node.Content); i += 2 {
			key, value := node.Content[i], node.Content[i+1]
			if key.HeadComment == "" && !seen[key.Value] {
				t.Errorf("values.yaml:%d: %s%s has no comment", key.Line, path, key.Value)
			}
			seen[key.Value] = true
			if key.Value != "resources" && key.Value != "podSecurityContext" {
				walk(path+key.Value+".", value)
			}
		}
	}
	walk("", document.Content[0])
}

// The sidecars are those that the end-to-end tests compile and run.
func TestSidecarVersions(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(root, "tests/cluster/go/go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]string{
		"csi-provisioner": "external-provisioner", "csi-attacher": "external-attacher", "csi-resizer": "external-resizer",
		"csi-snapshotter": "external-snapshotter", "snapshot-controller": "external-snapshotter",
	}
	rendered, err := render(t, everything)
	if err != nil {
		t.Fatal(err)
	}
	for image, module := range images {
		version := regexp.MustCompile(`(?m)^\tgithub\.com/kubernetes-csi/` + module + `/v\d+ (v\S+)$`).FindSubmatch(mod)
		if version == nil {
			t.Errorf("tests/cluster does not compile %s", module)
			continue
		}
		if want := fmt.Sprintf("image: registry.k8s.io/sig-storage/%s:%s\n", image, version[1]); !strings.Contains(rendered, want) {
			t.Errorf("the chart does not have %s", want)
		}
	}
}
