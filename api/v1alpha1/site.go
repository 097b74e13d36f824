package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Site is another installation of Lockstep: the peer that groups are
// replicated to, or that replicates its groups to this one. Its name is the
// name that the peer calls itself and that its certificate holds. Each of the
// two needs a Site for the other.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=lsite,categories=lockstep
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$')",message="the name must have 1 to 63 lower-case letters, digits or hyphens, as the peer's certificate has it"
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="Connected",type=string,JSONPath=`.status.conditions[?(@.type=="Connected")].status`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.status.conditions[?(@.type=="Connected")].lastTransitionTime`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Class",type=string,JSONPath=`.spec.replicaStorageClass`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Connected")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Site struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	Spec SiteSpec `json:"spec"`
	// +optional
	Status SiteStatus `json:"status,omitzero"`
}

// SiteList is what a list request answers.
//
// +kubebuilder:object:root=true
type SiteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []Site `json:"items"`
}

// SiteSpec says how a peer is reached and where its volumes are kept.
type SiteSpec struct {
	// host:port of the peer's gateway; an IPv6 address in brackets. May
	// change: the next connection goes there. The peer is who its certificate
	// says, not who answers there.
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=261
	// +kubebuilder:validation:XValidation:rule="self.matches('^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\\\\[[0-9A-Fa-f:.]+\\\\]):[0-9]{1,5}$') && int(self.substring(self.lastIndexOf(':') + 1)) >= 1 && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535",message="must be host:port, with an IPv6 address in brackets and a port of 1 to 65535"
	Address string `json:"address"`

	// The storage class of this cluster, of Lockstep's own, in which replicas
	// of the peer's volumes are made; its backingStorageClass holds them, and
	// the claims that a failover makes have this class. Without one, the class
	// that the volume has at the peer is looked for by its name.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ReplicaStorageClass string `json:"replicaStorageClass,omitempty"`

	// Name of a Secret in Lockstep's namespace with ca.crt, tls.crt and
	// tls.key, as `lockstep certs` makes them: what is presented to this peer,
	// and whom it must be signed by.
	// +optional
	// +kubebuilder:default=lockstep-peer-tls
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	TLSSecretName string `json:"tlsSecretName,omitempty"`
}

// SiteConnected is the condition type of a Site: the peer answered the last
// announcement of this site, or there is nothing to announce and its gateway
// takes the certificate.
const SiteConnected = "Connected"

// SiteStatus is what the controller last saw of a peer.
type SiteStatus struct {
	// The metadata.generation that the rest of the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Whether the peer's gateway answers and takes this site's certificate.
	// +optional
	Connected bool `json:"connected"`
	// The version of Lockstep that the peer's gateway runs, as of the last time
	// that it answered.
	// +optional
	Version string `json:"version,omitempty"`
	// Connected.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
