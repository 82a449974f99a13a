"""What the bits of a replica's velocities follow from, besides their inputs."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class ComputedAs:
    """The weights that a replica has, and how it multiplies them: two that differ may compute other bits.

    ``revision`` is a digest of the weights as computed, ``dtype`` what ``auto`` came to, ``linear`` the kind of
    product, ``machine`` the processor's kind and the library's version.
    """

    revision: str
    dtype: str
    linear: str
    machine: str

    def differences(self, other: "ComputedAs") -> tuple[str, ...]:
        """Return the names of what differs between two replicas; none where a lane's bits are the same on both."""
        names = (field.name for field in fields(self))
        return tuple(name for name in names if getattr(self, name) != getattr(other, name))
