"""Routes of accounts and sessions."""

from django.urls import path

from accounts import api, views

urlpatterns = [
    path("login", views.login, name="login"),
    path("logout", views.logout, name="logout"),
    path("auth/setup-status", api.SetupStatusView.as_view(), name="auth-setup-status"),
    path("auth/register", api.RegisterView.as_view(), name="auth-register"),
    path("auth/login", api.LoginView.as_view(), name="auth-login"),
    path("auth/refresh", api.RefreshView.as_view(), name="auth-refresh"),
    path("auth/me", api.MeView.as_view(), name="auth-me"),
    path("auth/change-password", api.ChangePasswordView.as_view(), name="auth-change-password"),
    path(
        "auth/onboarding-complete",
        api.OnboardingView.as_view(),
        name="auth-onboarding-complete",
    ),
]
