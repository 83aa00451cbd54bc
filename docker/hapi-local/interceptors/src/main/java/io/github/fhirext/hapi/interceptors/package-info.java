/**
 * Interceptors of ours for any HAPI FHIR JPA server.
 *
 * <p>They are Spring beans: a server scans this package ({@code hapi.fhir.custom-bean-packages}) and
 * registers them by name ({@code hapi.fhir.custom-interceptor-classes}). The jar therefore works in
 * hapi-local and, dropped into {@code /app/extra-classes}, in the official docker image.
 */
package io.github.fhirext.hapi.interceptors;
